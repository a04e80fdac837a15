"""Structure: imports run one way, between packages and inside them; libraries have one place."""

import ast
import graphlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "leukjax"

COMMANDS = {
    *("audit", "compare", "crossval", "demo", "evaluate", "explain", "export", "preview"),
    *("lr_find", "probe", "robustness"),
}
# Each package or top module imports from those of the lines above its own only, and from itself.
LAYERS = (
    {"errors"},
    {"storage", "fields", "hashing", "terminal"},
    {"config"},
    {"runtime", "sharding", "coordinator_proxy"},
    {"distributed"},
    {"images", "models", "metrics", "compiler"},
    {"data"},
    {"weights", "rundir"},
    {"checkpoints"},
    {"predict"},
    {"report"},
    {"training"},
    {"command"},
    COMMANDS,
    {"main"},
    {"__main__", "__init__"},
)
# What a command takes from another one.
BUILDS_ON = {
    "audit": {"compare"},
    "crossval": {"evaluate"},
    "demo": {"explain"},
    "probe": {"crossval"},
}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(file.relative_to(PACKAGE)) for file in FILES]


def _module(file: Path) -> str:
    parts = ("leukjax", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(file): file for file in FILES}


def _imported(file: Path) -> set[str]:
    """The modules of leukjax that a file imports."""
    names = {name for name in imports(file) if name.startswith("leukjax.")}
    return {name for name in names if name in MODULES} - {_module(file)}


@pytest.mark.smoke
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_run_one_way(file: Path):
    package = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    assert package in level, f"{file} belongs to no layer; name it in LAYERS"
    allowed = {name for name in level if level[name] < level[package]}
    allowed |= {package} | BUILDS_ON.get(package, set())
    if file.name in ("cli.py", "__main__.py"):  # predict is used by other packages, its flags not
        allowed |= {"command"}
    assert {name.split(".")[1] for name in _imported(file)} <= allowed


def test_no_module_imports_itself_by_way_of_others():
    # A package's __init__ is run before its modules, and so counts only where it is imported.
    graph = {module: _imported(file) for module, file in MODULES.items()}
    packages = {module for module, file in MODULES.items() if file.name == "__init__.py"}
    ways = {
        module: {name for name in names if name not in packages or not module.startswith(name)}
        for module, names in graph.items()
    }
    graphlib.TopologicalSorter(ways).prepare()  # raises CycleError, which names the cycle


@pytest.mark.smoke
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_libraries_have_one_place(file: Path):
    package = file.relative_to(PACKAGE).parts[0]
    libraries = {name.split(".")[0] for name in imports(file)}
    assert not libraries & {"tensorflow", "torch", "torchvision", "timm", "clu"}
    if package in ("data", "metrics"):
        assert not libraries & {"jax", "flax", "optax"}
    if package != "data":
        assert not libraries & {"grain", "tensorflow_datasets", "array_record"}
    if package != "checkpoints":
        assert not libraries & {"orbax", "tensorstore"}
    if package not in COMMANDS | {"report"}:
        assert "matplotlib" not in libraries
    if package != "demo":
        assert not libraries & {"starlette", "uvicorn", "multipart", "markdown_it"}


def _text_mode(call: ast.Call, place: int) -> bool:
    """Whether a call of open has a mode of text: the argument at a place, or `mode`."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    mode = named.get("mode") or (call.args[place] if len(call.args) > place else None)
    return mode is None or (isinstance(mode, ast.Constant) and "b" not in str(mode.value))


def _lacks_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the locale."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named:
        return False
    if any(isinstance(named.get(name), ast.Constant) and named[name].value  # type: ignore[attr-defined]
           for name in ("text", "universal_newlines")):  # fmt: skip
        return True
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and _text_mode(call, 1)
    if not isinstance(function, ast.Attribute):
        return False
    of = function.value.id if isinstance(function.value, ast.Name) else ""
    if function.attr in ("read_text", "write_text"):
        return of != "storage" and len(call.args) < (1 if function.attr == "read_text" else 2)
    if function.attr == "fdopen":
        return _text_mode(call, 1)
    # os.open gives a descriptor; tar, zip and PIL have their own.
    return function.attr == "open" and of not in ("os", "Image", "zipfile") and _text_mode(call, 0)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_csv_is_written_by_storage_alone(file: Path):
    """Its writer quotes a carriage return in a name, which `csv.writer` does not."""
    own = str(file.relative_to(PACKAGE))
    writers = {"writer", "DictWriter"}
    found = [
        node.lineno
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in writers
        and isinstance(node.value, ast.Name) and node.value.id == "csv"
    ]  # fmt: skip
    # The exported program runs without leukjax.
    assert not found or own in ("storage.py", "export/predict_template.py")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_files_are_read_and_written_as_utf_8(file: Path):
    """Not in the encoding of the locale, which on some clusters is ASCII."""
    calls = [
        node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    assert [node.lineno for node in calls if _lacks_encoding(node)] == []


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("open(p)", True), ("open(p, 'rb')", False), ("open(p, 'w', encoding='utf-8')", False),
        ("p.open('a')", True), ("p.open('wb')", False), ("p.open(mode='w')", True),
        ("p.read_text()", True), ("p.read_text('utf-8')", False), ("p.write_text(x)", True),
        ("read_text(p)", False), ("storage.read_text(p)", False), ("os.fdopen(1, 'w')", True),
        ("os.open(p, 0)", False), ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, encoding='utf-8')", False), ("np.load(p)", False),
    ],
)  # fmt: skip
def test_what_lacks_an_encoding(text: str, lacks: bool):
    (call,) = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    assert _lacks_encoding(call) == lacks


def _needs(name: str, seen: set[str]) -> set[str]:
    """All distributions that installing one brings in, extras left out."""
    if name in seen:
        return seen
    seen.add(name)
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return seen  # needed on other platforms or Pythons only
    for requirement in requirements:
        if "extra ==" not in requirement:
            needed = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
            _needs(re.sub(r"[-_.]+", "-", needed).lower(), seen)
    return seen


@pytest.mark.smoke
def test_no_dependency_brings_in_tensorflow_or_pytorch():
    needed = _needs("leukjax", set())
    assert {"jax", "tensorflow-datasets", "grain"} <= needed
    assert not {name for name in needed if re.fullmatch(r"(tensorflow|torch)(-?cpu|vision)?", name)}


def _named(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every local variable, parameter and field of a file, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_function_words_are_not_variable_names(file: Path):
    words = {"found", "one", "own", "each", "of", "here", "again", "anew"}
    for name, line in _named(ast.parse(file.read_text("utf-8"))):
        assert name not in words, f"{file}:{line}: {name!r} does not say what the variable holds"


def test_there_is_no_drawer_for_everything():
    assert not {"utils.py", "helpers.py", "misc.py", "common.py"} & {f.name for f in FILES}


def test_no_two_test_files_share_a_name():
    """Tests are no packages: pytest could not collect the second one."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"conftest.py"}


def test_every_command_has_a_smoke_test():
    """`make smoke` runs each command once on another Python."""
    marked = set()
    for file in Path(__file__).parent.rglob("test_*.py"):
        for given in re.findall(r"mark\.smoke\(([^)]*)\)", file.read_text()):
            marked |= set(re.findall(r'"(\w+)"', given))
    assert marked == COMMANDS | {"main", "predict", "weights"}
