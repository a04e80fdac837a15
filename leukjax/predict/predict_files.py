"""The work of `leukjax.predict`: runs and paths in, tables out."""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import logging

from leukjax import runtime
from leukjax.data import image_stream
from leukjax.data.archive import IMAGES
from leukjax.data.parallel import progress
from leukjax.errors import UserError
from leukjax.predict import out_of_distribution
from leukjax.predict.batching import Row, stream
from leukjax.predict.member import Member
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import NOT_FINITE, Predictor, load
from leukjax.predict.tables import Submission, Table
from leukjax.rundir import RunDir
from leukjax.storage import is_special, open_output


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.predict`; see there."""

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
    """Predicts images and writes the table; runs, paths and options are checked first.

    Raises:
      UserError: a run, path, option or output that cannot be used; or no file could be read.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX looks for devices, which the next lines do
    image_stream.check(paths)
    _check_outputs(output, paths, options)
    predictor = load(
        runs,
        options.step,
        tta=options.tta,
        calibrated=options.calibrated,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    runtime.start(RunDir(predictor.workdirs[0]).config(options.overrides))
    for member in predictor.members:
        _log(member)
    total = image_stream.count(paths)
    submission = None
    if options.submission:
        names = (item.path for item in image_stream.items(paths))
        submission = Submission(options.submission, predictor.classes, names)
    distances = _distances(predictor, options)
    table = _table(predictor, options, bool(distances))
    rows = stream(
        predictor, image_stream.items(paths), threads=options.threads, distances=distances
    )
    counts = _write_table(output, table, progress(rows, total, "predicting"), submission)
    if options.subject_pattern:
        table.subjects.write(output.with_name(f"{output.stem}-subjects.csv"))
    if submission:
        submission.write()
    counts.log(output)


def _write_table(
    output: Path, table: Table, rows: Iterable[Row], submission: Submission | None
) -> "_Counts":
    counts = _Counts()
    try:
        with open_output(output) as file:
            file.write(table.header())
            for row in rows:
                file.write(table.line(row))
                counts.add(row)
                if submission and row.probabilities is not None:
                    submission.add(row.path, table.most_likely(row.probabilities))
    except OSError as error:  # those of the images are in their rows
        reason = error.strerror or error
        raise UserError(f"--output={output}: cannot be written ({reason}); choose another") from (
            error
        )
    return counts


def _distances(predictor: Predictor, options: Options) -> list[FeatureDistance]:
    """The out-of-distribution distances of the members, or none.

    Without the flag they are used where every run has them on disk: they cost nothing then.
    """
    if options.flag_unlike:
        return [out_of_distribution.of_run(m, options.overrides) for m in predictor.members]
    return out_of_distribution.read_all(predictor) if options.flag_unlike is None else []


def _table(predictor: Predictor, options: Options, has_unlikeness: bool) -> Table:
    """The columns for the options, and the confidence from which images get a class."""
    confidence = None
    if options.max_error is not None:
        threshold = predictor.choose_threshold(options.max_error)
        confidence = threshold.confidence
        logging.info(
            "abstaining below a confidence of %.4g: on validation %.1f %% of the images reach it, "
            "%.1f %% of these are wrong (mean over %d groups)",
            threshold.confidence,
            100 * threshold.answered,
            100 * threshold.wrong,
            threshold.groups,
        )
    return Table(
        predictor.classes,
        confidence=confidence,
        unlikeness=has_unlikeness,
        unlikeness_last=options.flag_unlike is None,
        subject_pattern=options.subject_pattern,
    )


def _check_outputs(output: Path, paths: Sequence[str], options: Options) -> None:
    _check_target("output", output, paths)
    if options.subject_pattern and is_special(output):
        raise UserError(
            f"--output={output}: the second table of --subject_pattern goes beside it; give the "
            "name of a regular file"
        )
    if options.submission:
        _check_target("submission", options.submission, paths)


def _check_target(flag: str, target: Path, paths: Sequence[str]) -> None:
    """Raises UserError for an output that is a folder, or would overwrite an input."""
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
        raise UserError(f"--{flag}={target}: would overwrite an image; choose another name")


def _log(member: Member) -> None:
    synthetic = ", trained on SYNTHETIC cells" if member.preprocessing["synthetic"] else ""
    calibrated = f", temperature {member.temperature:.3g}" if member.temperature != 1 else ""
    logging.info(
        "%s: %s at step %d, %d px%s%s",
        member.workdir,
        member.preprocessing["model"]["name"],
        member.step,
        member.image_size,
        calibrated,
        synthetic,
    )


class _Counts:
    """Counts the images, for the log at the end."""

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

    def log(self, output: Path) -> None:
        if self._bad == self._images:
            what = "has a prediction" if NOT_FINITE in self._first_error else "is an image"
            raise UserError(f"none of the files ({self._images:,}) {what}: {self._first_error}")
        if self._conversions:
            counts = ", ".join(f"{name}: {n:,}" for name, n in sorted(self._conversions.items()))
            logging.info("converted to 8-bit RGB (%s images)", counts)
        if self._unlike:
            logging.warning("%s images are unlike the training images", f"{self._unlike:,}")
        if self._bad:
            logging.warning("bad files: %s; the first: %s", f"{self._bad:,}", self._first_error)
        logging.info("wrote %s: %s images", output, f"{self._images - self._bad:,}")
