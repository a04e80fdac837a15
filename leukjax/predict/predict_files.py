"""The work of `leukjax.predict`: runs and paths in, tables out."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from leukjax import runtime
from leukjax.data import image_stream
from leukjax.data.archive import IMAGES
from leukjax.data.parallel import progress
from leukjax.errors import UserError
from leukjax.predict import out_of_distribution, selective
from leukjax.predict.batching import Row, rows
from leukjax.predict.out_of_distribution import Unlikeness
from leukjax.predict.predictor import NOT_FINITE, Model, load
from leukjax.predict.submission import Submission
from leukjax.predict.tables import Table
from leukjax.rundir import RunDir
from leukjax.storage import is_special, open_output


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.predict`, which says what they are."""

    step: int | str = "best"
    tta: bool = False
    calibrated: bool = False
    max_error: float | None = None
    flag_unlike: bool | None = None
    subject_pattern: re.Pattern[str] | None = None
    submission: Path | None = None
    batch_size: int = 32
    threads: int = 8
    overrides: Sequence[tuple[str, str]] = ()


def write(runs: Sequence[str], paths: Sequence[str], output: Path, options: Options) -> None:
    """Predict, and write the table whole; what is wrong with runs or paths is said before.

    Raises:
      UserError: a run, path, option or output that will not do; or not one image could be read.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX looks for devices: what follows does
    image_stream.check(paths)
    _check_target("output", output, paths)
    if options.subject_pattern and is_special(output):
        raise UserError(
            f"--output={output}: the second table of --subject_pattern goes beside it; give the "
            "name of a regular file"
        )
    if options.submission:
        _check_target("submission", options.submission, paths)
    model = load(
        runs,
        options.step,
        tta=options.tta,
        calibrated=options.calibrated,
        batch_size=options.batch_size,
    )
    runtime.start(RunDir(model.members[0].workdir).config(options.overrides))
    for member in model.members:
        _say(member)
    total = image_stream.count(paths)
    submission = None
    if options.submission:
        names = (item.path for item in image_stream.items(paths))
        submission = Submission(options.submission, model.classes, names)
    likes = _likes(model.members, options)
    table = _table(model.classes, model.members, options, bool(likes))
    answers = rows(
        model.members, image_stream.items(paths), threads=options.threads, unlikeness=likes
    )
    count = _Count()
    try:
        with open_output(output) as file:
            file.write(table.header())
            for row in progress(answers, total, "predicting"):
                file.write(table.line(row))
                count.add(row)
                if submission and row.probabilities is not None:
                    submission.add(row.path, model.classes[int(row.probabilities.argmax())])
    except OSError as error:  # those of the images are in their rows
        reason = error.strerror or error
        raise UserError(f"--output={output}: cannot be written ({reason}); choose another") from (
            error
        )
    if options.subject_pattern:
        table.subjects.write(output.with_name(f"{output.stem}-subjects.csv"))
    if submission:
        submission.write()
    count.say(output)


def _likes(models: Sequence[Model], options: Options) -> list[Unlikeness]:
    """What measures how unlike the training images an image is, one for each run; or none.

    Without the flag it is measured where every run has kept it: it costs nothing then.
    """
    if options.flag_unlike:
        return [out_of_distribution.of_run(model, options.overrides) for model in models]
    return unlikeness_kept(models) if options.flag_unlike is None else []


def unlikeness_kept(models: Sequence[Model]) -> list[Unlikeness]:
    """The runs' own, where each has kept it: making it takes the data and writes a file."""
    found = []
    for model in models:
        try:
            like = out_of_distribution.kept(model)
        except UserError as error:
            logging.warning("%s; how unlike images are is not shown", error)
            return []
        if like is None:
            return []
        found.append(like)
    return found


def _table(
    classes: Sequence[str], models: Sequence[Model], options: Options, has_unlikeness: bool
) -> Table:
    """The columns that the options ask for, and the confidence from which on there is an answer."""
    least = None
    if options.max_error is not None:
        chosen = selective.choose(models, options.max_error)
        least = chosen.confidence
        logging.info(
            "answers from a confidence of %.4g on: on validation %.1f %% of the images got one, "
            "%.1f %% of these a wrong one (mean over %d groups)",
            chosen.confidence,
            100 * chosen.answered,
            100 * chosen.wrong,
            chosen.groups,
        )
    return Table(
        classes,
        confidence=least,
        unlikeness=has_unlikeness,
        unlikeness_last=options.flag_unlike is None,
        subject_pattern=options.subject_pattern,
    )


def _check_target(flag: str, target: Path, paths: Sequence[str]) -> None:
    """Refuse to write over a folder, or over what is to be read."""
    try:
        if target.is_dir():
            raise UserError(f"--{flag}={target}: is a folder; give the name of a file in it")
        read = target.exists() and any(os.path.samefile(target, path) for path in paths)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--{flag}={target}: cannot be written ({reason}); choose another") from (
            error
        )
    if read or target.suffix.lower() in IMAGES:
        raise UserError(f"--{flag}={target}: would take the place of an image; choose another name")


def _say(model: Model) -> None:
    synthetic = ", trained on drawn (SYNTHETIC) cells" if model.preprocessing["synthetic"] else ""
    heat = f", temperature {model.temperature:.3g}" if model.temperature != 1 else ""
    logging.info(
        "%s: %s at step %d, %d px%s%s",
        model.workdir,
        model.preprocessing["model"]["name"],
        model.step,
        model.image_size,
        heat,
        synthetic,
    )


class _Count:
    """What is said at the end."""

    def __init__(self) -> None:
        self._images = self._bad = self._unlike = 0
        self._first_error = ""
        self._conversions: dict[str, int] = {}

    def add(self, row: Row) -> None:
        self._images += 1
        self._bad += bool(row.error)
        self._first_error = self._first_error or row.error
        self._unlike += row.unlikeness is not None and row.unlikeness > 1
        for name in row.conversions:
            self._conversions[name] = self._conversions.get(name, 0) + 1

    def say(self, output: Path) -> None:
        if self._bad == self._images:
            what = "has an answer" if NOT_FINITE in self._first_error else "is an image"
            raise UserError(f"not one of {self._images:,} files {what}: {self._first_error}")
        if self._conversions:
            counts = ", ".join(f"{name}: {n:,}" for name, n in sorted(self._conversions.items()))
            logging.info("converted to 8-bit RGB (%s images)", counts)
        if self._unlike:
            logging.warning("%s images are unlike those of the training", f"{self._unlike:,}")
        if self._bad:
            logging.warning("%s files are bad; the first: %s", f"{self._bad:,}", self._first_error)
        logging.info("wrote %s: %s images", output, f"{self._images - self._bad:,}")
