"""Pages of the site that are made from the code: API, commands, config fields, examples, changelog.

MkDocs calls `on_files`. Nothing is written into docs/.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import leukjax
from leukjax import config as configs
from leukjax.__main__ import COMMANDS, module_of
from leukjax.fields import Bounded, Choice, Duration, Field, Flag, Formed, Location, Pattern

ROOT = Path(__file__).resolve().parents[2]

API = {
    "data": ("Data", ("leukjax.data",)),
    "models": ("Models", ("leukjax.models",)),
    "training": ("Training", ("leukjax.training", "leukjax.images", "leukjax.config")),
    "applying": (
        "Applying and comparing",
        ("leukjax.predict", "leukjax.metrics", "leukjax.compare", "leukjax.probe"),
    ),
}

SECTIONS = {
    "": "General",
    "data": "Data",
    "split": "Split",
    "model": "Model",
    "init": "Initial weights",
    "augment": "Augmentation",
    "loss": "Loss",
    "optimizer": "Optimizer",
    "train": "Training",
    "checkpoint": "Checkpoints",
    "mesh": "Devices",
    "profile": "Profiler",
    "runtime": "Runtime",
}


def on_files(files, config):
    """Adds the generated pages."""
    pages = {f"reference/api/{name}.md": page for name, page in api_pages().items()}
    pages["reference/commands.md"] = commands_page()
    pages["reference/config.md"] = config_page()
    pages["changelog.md"] = changelog_page()
    pages |= example_pages()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Links to a script of examples/ lead to its page on the site."""
    up = "../" * page.file.src_uri.count("/")
    pattern = r"\]\((?:\.\./)+examples/(\w+)\.py\)"
    return re.sub(pattern, rf"]({up}examples/\1.md)", markdown)


def api_pages() -> dict[str, str]:
    """One page per group of public names; a public name without a group is an error."""
    public = {name: path.partition(":") for name, path in leukjax._PUBLIC.items()}
    pages = {}
    for group, (title, packages) in API.items():
        names = [n for n in public if public[n][0].startswith(packages)]
        # Classes first: functions refer to them.
        names.sort(key=lambda n: (not inspect.isclass(getattr(leukjax, n)), n))
        text = f"# {title}\n\n`import leukjax as lj`; each name below is an attribute of `lj`.\n"
        for name in names:
            module, _, other = public.pop(name)
            defined = getattr(getattr(leukjax, name), "__module__", module)
            text += f"\n::: {defined}.{other or name}\n    options:\n"
            text += f"      heading: lj.{name}\n      toc_label: {name}\n"
        pages[group] = text
    if public:
        raise ValueError(f"docs/hooks/reference.py: add {sorted(public)} to a page of API")
    return pages


def commands_page() -> str:
    """What each command is for, and its flags."""
    text = (
        "# Commands\n\n"
        "`leukjax COMMAND` and `python -m leukjax.COMMAND` are the same; `leukjax train` is "
        "`python -m leukjax.main`. Every command also takes `--import=FILE.py|MODULE` (your own "
        "models, data sets and optimizers), `--help` and `--version`.\n\n"
        "| exit status | meaning |\n| --- | --- |\n| 0 | done |\n"
        "| 1 | an error that you can fix; one line on standard error says how |\n"
        "| 2 | an unknown flag |\n"
        "| 75 | stopped on request with everything saved; the same command resumes |\n"
    )
    for name in COMMANDS:
        module = importlib.import_module(module_of(name))
        text += f"\n## leukjax {name} {{ #{name} }}\n\n{_usage(inspect.getdoc(module) or '')}\n"
        text += "\n| flag | default | meaning |\n| --- | --- | --- |\n"
        takes_config = "--config" in (module.__doc__ or "")
        if "--config=" in (module.__doc__ or ""):
            text += "| `--config` | | `PATH.py[:DATASET[,RECIPE]]`, or a shipped config |\n"
        if takes_config:
            text += "| `--config.FIELD` | | a [field of the config](config.md) |\n"
        flags = module.FLAGS
        for flag in sorted(flags._flags().values(), key=lambda flag: flag.name):
            if flag.name != "import":
                text += f"| `--{flag.name}` | {_default(flag.default)} | {_prose(flag.help)} |\n"
    return text


def _default(value: Any) -> str:
    if value in (None, "", []):
        return ""
    return f"`{','.join(value) if isinstance(value, list) else value}`"


def _usage(doc: str) -> str:
    """A docstring as Markdown: command lines become a code block; names of pages become links."""
    blocks = []
    for block in doc.split("\n\n"):
        is_code = block.lstrip().startswith("python -m ")
        if is_code:
            blocks.append(f"```\n{block}\n```")
        elif any(line.startswith("    ") for line in block.splitlines()):
            # Items with indented continuations.
            items = re.sub(r"\n    +", " ", block).splitlines()
            blocks.append("\n".join(f"- {item}" for item in items))
        else:
            blocks.append(block)
    return re.sub(r"docs/(?!\w*/?hooks)([\w/]+)\.md", _doc_link, "\n\n".join(blocks))


def _doc_link(match: re.Match[str]) -> str:
    page = match[1]
    title = (ROOT / "docs" / f"{page}.md").read_text("utf-8").partition("\n")[0].lstrip("# ")
    return f"[{title}](../{page}.md)"


def config_page() -> str:
    """Every field of the config, by section."""
    text = (
        "# Config fields\n\n"
        "`--config.FIELD=VALUE` sets a field on the command line, "
        '`lj.load_config("resnet50", {"FIELD": VALUE})` in Python. `configs/default.py` declares '
        "them; the other configs change a few. A *duration* is a text such as `5 epochs`, "
        "`1000 steps` or `50000 examples`. Fields marked *free* change how fast a run is or where "
        "its files are, never its numbers: a run may be resumed with other values of them.\n"
    )
    by_section: dict[str, list[tuple[str, Field]]] = {}
    for name, field in configs.fields().items():
        by_section.setdefault(name.rpartition(".")[0], []).append((name, field))
    for section, fields in by_section.items():
        text += f"\n## {SECTIONS.get(section, section)}\n\n"
        text += "| field | default | values | meaning |\n| --- | --- | --- | --- |\n"
        for name, field in fields:
            default = "" if field.default == "" else f"`{field.default}`"
            meaning = _prose(field.doc) + (" *(free)*" if field.is_free else "")
            text += f"| `{name}` | {default} | {_cell(_values(field))} | {meaning} |\n"
    return text


def _values(field: Field) -> str:
    """The values that a field may have."""
    if isinstance(field, Choice):
        return ", ".join(f"`{value}`" for value in field.values)
    if isinstance(field, Bounded):
        low, high = (f"{b:,}" if isinstance(b, int) else f"{b:g}" for b in field.bounds)
        return f"{field.expected}, {low} to {high}"
    if isinstance(field, Formed):
        return field.example
    kinds = {
        Flag: "`True`, `False`",
        Duration: "a duration",
        Pattern: "a regular expression",
        Location: "a path",
    }
    return next((text for kind, text in kinds.items() if isinstance(field, kind)), field.expected)


def _cell(text: str) -> str:
    """Text or code of a cell of a table, which a bar would end."""
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Text of a cell that is shown as it is: brackets are no link, and `<` starts no tag."""
    return re.sub(r"([\[\]*_])", r"\\\1", _cell(text)).replace("<", "&lt;")


def example_pages() -> dict[str, str]:
    """The scripts of examples/, each on a page with its docstring."""
    pages = {}
    index = "# Example scripts\n\nEach is complete and is run by a test.\n\n"
    for file in sorted((ROOT / "examples").glob("*.py")):
        source = file.read_text("utf-8")
        doc = ast.get_docstring(ast.parse(source)) or ""
        title = doc.partition("\n")[0].rstrip(".")
        index += f"- [{title}]({file.stem}.md): `examples/{file.name}`\n"
        pages[f"examples/{file.stem}.md"] = (
            f"# {title}\n\n`examples/{file.name}`\n\n```python\n{source}```\n"
        )
    pages["examples/index.md"] = index
    return pages


def changelog_page() -> str:
    """CHANGELOG.md, whose links start at the root of the repository."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    text = re.sub(r"\[docs/[\w/]+/(\w+)\.md\]", r"[\1]", text)
    return text.replace("](docs/", "](").replace("](examples)", "](examples/index.md)")
