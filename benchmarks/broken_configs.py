"""Fields, names of configs and config files, damaged at random."""

import numpy as np
from broken_case import TEXTS, Case, damage, write_folder

from leukjax import config
from leukjax.fields import Bounded, Choice

_NUMBERS = (-1, 0, 1, 2, 3, 5, 7, 8, 16, 33, 99, 10**6, 2**31, 2**32, 2**63, 10**30, 0.1, 1e-300)

# Values of these ask for endless work, which is no error.
_HEAVY = ("data.smears_cells", "data.smears_subjects", "model.depth", "model.width",
          "model.variant", "train.epochs", "data.workers", "runtime.timeout", "profile.steps",
          "data.cache_dir", "runtime.compilation_cache")  # fmt: skip
# Allowed values of these may fill the memory, or do not fit the data.
_LARGE = ("data.image_size", "data.crop", "data.threads", "data.prefetch", "data.name",
          "train.batch_size", "train.eval_batch_size", "train.accumulate", "mesh.data",
          "mesh.model", "model.norm_batch", "split.folds", "split.fold", "model.name")  # fmt: skip


def field(case: Case, random: np.random.Generator) -> None:
    """Damages values and names of fields, and the name of the config."""
    write_folder(case, random)
    defaults = config.flatten(config.load("default"))
    known = [name for name in defaults if name not in _HEAVY]
    for _ in range(random.integers(1, 4)):
        name = str(random.choice(known))
        if random.random() < 0.15:
            index = int(random.integers(len(name)))
            name = (
                name[:index]
                + str(random.choice(("", "x", ".", "..", "=", " ")))
                + name[index + 1 :]
            )
        default, value = defaults.get(name), str(random.choice(TEXTS))
        if isinstance(default, int | float) and random.random() < 0.6:
            value = str(random.choice(_NUMBERS))
        if isinstance(default, bool) or (isinstance(default, float) and random.random() < 0.5):
            value = str(random.choice(("true", "0", "0.5", "0.01")))
        case.fields[name] = value
    if random.random() < 0.2:
        odd = ("", ":", "cnn:", "cnn:x", "cnn:image_folder,x", "nope", "configs", "/", "cnn.py",
               "configs/cnn.py:smears", "default", "x" * 300, "é.py", "..", "README.md",
               "literature", "hybrid_vit:image_folder", "resnet50:,")  # fmt: skip
        case.config = str(random.choice(odd))


def extreme(case: Case, random: np.random.Generator) -> None:
    """Sets allowed values at the ends of their range."""
    write_folder(case, random)
    defaults = config.flatten(config.load("default"))
    rules = {
        name: field
        for name, field in config.fields().items()
        if isinstance(field, Choice | Bounded) and name not in {*_HEAVY, *_LARGE}
    }
    for name in random.choice(sorted(rules), random.integers(2, 8), replace=False).tolist():
        field = rules[name]
        if isinstance(field, Choice):
            options = [choice for choice in field.values if choice != "smears"]
            case.fields[name] = options[int(random.integers(len(options)))]
        else:
            low, high = field.bounds
            value = (low, high, low + (high - low) / 2, low + 1)[int(random.integers(4))]
            case.fields[name] = int(value) if isinstance(defaults[name], int) else value


def config_file(case: Case, random: np.random.Generator) -> None:
    """Damages lines of a shipped config file: lost, doubled, damaged or unusual."""
    write_folder(case, random)
    lines = (config.shipped_folder() / "cnn.py").read_text().splitlines()
    body = len(lines) - 1 - lines[::-1].index("    return config")
    values = ("3", "'3'", "None", "[1]", "True", "float('nan')", "1e999", "(1,)", "config", "{}",
              "object()", "b'x'", "-1", "10**30", "config.data", "lambda: 0", "'a\\0b'",
              "ConfigDict({'x': 1})", "1j", "'\\ud800'")  # fmt: skip
    names = [*config.flatten(config.load("default")), "data", "model", "nosuch", "train.nosuch"]
    for _ in range(random.integers(1, 4)):
        how, line = random.integers(6), int(random.integers(len(lines)))
        if how == 0:
            lines.pop(line)
        elif how == 1:
            lines.insert(line, lines[int(random.integers(len(lines)))])
        elif how == 2:
            lines[line] = damage(lines[line].encode(), random).decode("latin-1")
        elif how == 3:
            odd = ("raise SystemExit(3)", "1 / 0", "config.lock()", "config = None",
                   "import nosuch", "return ConfigDict()", "return 3", "del config.data",
                   "config.seed.x = 3", "return config.to_dict()",
                   "config.data.unlock(); config.data.more = 1")  # fmt: skip
            lines.insert(body, f"    {random.choice(odd)}")
        else:
            name, value = random.choice(names), random.choice(values)
            way = ("config.{} = {}", "with config.ignore_type(): config.{} = {}")
            lines.insert(body, "    " + way[how - 4].format(name, value))
        body = min(body, len(lines))
    text = "\n".join(lines)
    file = case.folder / "mine.py"
    file.write_bytes(text.encode("latin-1" if random.random() < 0.1 else "utf-8", "replace"))
    case.config = f"{file}:image_folder"
