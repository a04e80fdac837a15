"""``leukjax COMMAND`` is ``python -m leukjax.COMMAND``; ``leukjax train`` is ``leukjax.main``."""

import ast
import importlib
import importlib.abc
import importlib.util
import sys

COMMANDS = (
    "train",
    "compare",
    "preview",
    "predict",
    "explain",
    "crossval",
    "evaluate",
    "robustness",
    "audit",
    "export",
    "demo",
)


def main() -> None:
    """Start the command that is named first."""
    from leukjax import terminal

    terminal.prepare()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print("leukjax COMMAND [--config=CONFIG] [--help]\n")
        for command_name in COMMANDS:
            print(f"  {command_name:12}{_purpose(module_of(command_name))}")
        return
    if name not in COMMANDS:
        print(f"error: {name}: no such command; one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    from leukjax import command

    module = importlib.import_module(module_of(name))
    sys.argv = [f"leukjax {name}", *sys.argv[2:]]
    command.run(module.main, module.FLAGS, doc=module.__doc__)


def module_of(name: str) -> str:
    """The module with the flags and the main function of a command."""
    return "leukjax.main" if name in ("train", "main") else f"leukjax.{name}.cli"


def _purpose(module: str) -> str:
    """The first line of a command's docstring, read without importing it: that takes seconds."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, importlib.abc.InspectLoader)
    source = spec.loader.get_source(spec.name) or ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
