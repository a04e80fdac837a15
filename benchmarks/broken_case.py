"""A case of fuzz.py: a command line, a folder, and how bytes are damaged."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 18
CLASSES = ("blast", "healthy")
SUBJECTS = 5

# Small enough to train in seconds; mutations change some fields.
FIELDS = {
    "data.subject_pattern": "(p[0-9]+)_",
    "data.image_size": 16,
    "data.threads": 2,
    "model.width": 4,
    "train.batch_size": 4,
    "train.epochs": 1,
}

TEXTS = ("", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e999", "-0", "true", "False",
          "None", "[]", "{}", "1,2,3", "0.5,0.5,0.5", "0,0,0", "a\nb", "\u0664\u0662", "é" * 40,
          "x" * 5000, "/", "..", "/dev/null", "/proc/self/mem", "none", "balanced", "fit", "skip",
          "5 epochs", "1e400 steps", "-3 steps", "0 examples", "3 steps", "(", "(?P<n>", "(x)|y",
          "()", "(.*)", "[[:alpha:]]", "image", "kfold", "official", "auto", "nlm", "median",
          "bilateral", "gaussian", "healthy", "cosine", "step", "focal", "group", "frozen",
          "99999999999999999999", "1_0", "0x10", "1.5", "--seed", "=", "%s", "${HOME}")  # fmt: skip


@dataclasses.dataclass
class Surroundings:
    """Environment of a case that runs as a process; the defaults are a terminal's.

    Attributes:
      names: unusual properties, for the summary.
      variables: environment variables; None removes one.
      streams: 0, 1, 2 -> "closed", "full" (the device that is always full) or "gone" (a pipe that
        no process reads).
      before: Python statements that the new process runs before the command.
      cwd: working directory; None = an empty folder.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    variables: dict[str, str | None] = dataclasses.field(default_factory=dict)
    streams: dict[int, str] = dataclasses.field(default_factory=dict)
    before: list[str] = dataclasses.field(default_factory=list)
    cwd: Path | None = None

    def variables_now(self) -> dict[str, str]:
        """Returns the environment variables of the process."""
        variables = {**os.environ, **self.variables}
        return {name: value for name, value in variables.items() if value is not None}


@dataclasses.dataclass
class Case:
    """A command line, and the folder of its inputs.

    Attributes:
      kind: what is damaged.
      folder: of inputs and outputs.
      config: of `leukjax.main`.
      fields: of `leukjax.main`: changed fields of the config.
      command: a module of leukjax.
      arguments: of another command than `leukjax.main`.
      surroundings: None = any; otherwise the case runs as a process.
      expected: "answers.csv" of the undamaged run, which a case with status 0 must reproduce.
      rows: number of rows of answers.csv; None = any.
      changes: for the report of a failure.
    """

    kind: str
    folder: Path
    config: str
    fields: dict[str, object]
    command: str = "main"
    arguments: list[str] | None = None
    surroundings: Surroundings | None = None
    expected: Path | None = None
    rows: int | None = None
    changes: list[str] = dataclasses.field(default_factory=list)

    def argv(self) -> list[str]:
        """Returns the arguments of ``python -m leukjax.COMMAND``."""
        if self.arguments is not None:
            return self.arguments
        return [
            f"--config={self.config}",
            f"--workdir={self.folder / 'run'}",
            *(f"--config.{field}={value}" for field, value in self.fields.items()),
        ]


def draw_cell(random: np.random.Generator) -> np.ndarray:
    """Returns noise on a black disc."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = random.integers(30, 220, (SIDE, SIDE, 3), np.uint8)
    image[np.hypot(x, y) > SIDE * random.uniform(0.25, 0.5)] = 0
    return image


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut, repeated, doubled or replaced."""
    values = np.frombuffer(data, np.uint8).copy()
    how = random.integers(8)
    if how == 0:
        return b""
    if how == 1:
        return random.bytes(int(random.integers(1, 300)))
    if how == 2:
        return data[: random.integers(len(data) + 1)]
    if how == 3:
        start = random.integers(len(data) + 1)
        return data[:start] + random.bytes(int(random.integers(1, 50))) + data[start:]
    if how == 4:
        start, stop = sorted(random.integers(len(data) + 1, size=2))
        return data[:start] + data[stop:]
    # Headers have more ways to break than image data.
    reach = len(values) if how == 5 else min(len(values), 100)
    count = random.integers(1, 9)
    if len(values):
        values[random.integers(reach, size=count)] = random.integers(256, size=count)
    return values.tobytes() + (data if how == 7 else b"")


def write_folder(case: Case, random: np.random.Generator) -> list[Path]:
    """Writes a data set of two classes; returns its images."""
    root = case.folder / "data"
    case.fields["data.root"] = root
    paths = []
    for number, kind in enumerate(CLASSES):
        for subject in range(SUBJECTS):
            for cell in range(2):
                path = root / kind / f"p{number}{subject}_{cell}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                Image.fromarray(draw_cell(random)).save(file, "PNG")
                path.write_bytes(file.getvalue())
                paths.append(path)
    return paths
