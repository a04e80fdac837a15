"""``leukjax COMMAND`` is ``python -m leukjax.COMMAND``; ``leukjax train`` is ``leukjax.main``."""

import ast
import difflib
import importlib
import importlib.abc
import importlib.util
import sys

COMMANDS = (
    "train",
    "compare",
    "preview",
    "lr_find",
    "predict",
    "explain",
    "crossval",
    "evaluate",
    "robustness",
    "audit",
    "export",
    "demo",
    "weights",
    "probe",
)


def main() -> None:
    """Starts the command that the first argument names."""
    import leukjax
    from leukjax import terminal

    terminal.prepare()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print("leukjax COMMAND [--config=CONFIG] [--help] | leukjax --version\n")
        for command_name in COMMANDS:
            print(f"  {command_name:12}{_purpose(module_of(command_name))}")
        return
    if name == "--version":
        print(f"leukjax {leukjax.__version__}")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(COMMANDS)}"
        print(f"error: {name}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    from leukjax import command

    module = importlib.import_module(module_of(name))
    sys.argv = [f"leukjax {name}", *sys.argv[2:]]
    command.run(module.main, module.FLAGS, doc=module.__doc__)


def module_of(name: str) -> str:
    """Returns the name of the module with a command's flags and main function."""
    return "leukjax.main" if name in ("train", "main") else f"leukjax.{name}.cli"


def _purpose(module: str) -> str:
    """Returns the first line of a command's docstring without importing it, which takes seconds."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, importlib.abc.InspectLoader)
    source = spec.loader.get_source(spec.name) or ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
