"""`RunDir`: the only code that reads back a work directory, which may come from anyone.

Every file is a regular file of bounded size; every value is checked for type and bounds; nothing
that a folder holds says where files of this machine are, how it works, or what code to run.
"""

import contextlib
import csv
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import storage
from leukjax.errors import NotRegistered, UserError
from leukjax.fields import Choice
from leukjax.metrics import predictions as tables
from leukjax.metrics.predictions import Predictions

CONFIG, DATA, PREPROCESSING, SUMMARY = (
    "config.json",
    "data.json",
    "preprocessing.json",
    "summary.json",
)
SPLIT, METRICS, STARTS, LEDGER, LOCK = (
    "split.csv",
    "metrics.jsonl",
    "starts.jsonl",
    "test_openings.jsonl",
    ".lock",
)
LEDGER_OF_STUDY, UNLIKENESS = "ledger.jsonl", "unlikeness.npz"
REACHED = ".reached"  # the last step that a start has done
PARTS = ("train", "val", "test", "held_out", "")

MAX_JSON = 4 * 2**20  # bytes of a JSON file
MAX_LOG = 64 * 2**20  # of a file with one JSON object per line
MAX_TABLE = 256 * 2**20  # of a CSV
MAX_CLASSES = 10_000
MAX_TEXT = 1_000  # characters of an id, a name or a version
MIN_STD = 1e-6  # below it a normalised pixel leaves the range of float32's useful digits

# Gives the value, or raises ValueError with what it must be.
Check = Callable[[Any], Any]


class RunDir:
    """A work directory.

    Attributes:
      folder: its path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Reads nothing yet."""
        self.folder = Path(folder)

    # What it holds.

    @property
    def is_finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.folder / SUMMARY).is_file()

    def require(self, *names: str) -> None:
        """Check that files of a finished run are there.

        Raises:
          UserError: the folder holds no run, or an unfinished one.
        """
        if not (self.folder / CONFIG).is_file():
            raise UserError(
                f"--workdir={self.folder}: holds no run (no {CONFIG}); give a work directory"
            )
        for name in names:
            if not (self.folder / name).is_file():
                raise UserError(
                    f"--workdir={self.folder}: the run is not finished ({name} is missing); "
                    "train to the end: python -m leukjax.main …"
                )

    def config(self, overrides: Iterable[tuple[str, Any]] = ()) -> ConfigDict:
        """The config of the run, with this machine's own paths and settings.

        Args:
          overrides: fields that the user gives for this machine, as ``data.root``.

        Raises:
          UserError: no run, a damaged config, or an override on which numbers depend.
        """
        config, _ = self._configs()
        configs.of_this_machine(config, overrides, f"--workdir={self.folder}")
        return config

    def recorded(self) -> dict[str, Any]:
        """All fields of config.json as they were recorded: for display, never to be used."""
        return self._configs()[1]

    def config_with_data(self, overrides: Iterable[tuple[str, Any]] = ()) -> ConfigDict:
        """`config`, for commands that read the images.

        Raises:
          UserError: as `config`; or the images are in a folder, and the user gives none.
        """
        config, recorded = self.config(overrides), self.recorded()
        wanted = [] if config.data.name == "smears" else ["root"]
        wanted += ["subject_csv"] if recorded["data.subject_csv"] else []
        for name in wanted:
            if not config.data[name]:
                before = _short(repr(recorded[f"data.{name}"]))
                raise UserError(
                    f"--config.data.{name} is missing: {self.folder} was trained with {before}, "
                    f"and paths in a run are not used; give --config.data.{name}=PATH"
                )
        return config

    def _configs(self) -> tuple[ConfigDict, dict[str, Any]]:
        content = self.read_json(CONFIG)
        try:
            return configs.of_finished_run(content)
        except NotRegistered as error:
            raise UserError(f"--workdir={self.folder}: {error}") from error
        except UserError as error:
            raise self._damaged(CONFIG, error) from error

    def data(self) -> dict[str, Any]:
        """What data.json records of the images: checksums, counts, classes, protocol."""
        return self._checked(DATA, _DATA, optional=_DATA_OPTIONAL)

    def summary(self) -> dict[str, Any]:
        """What summary.json records of a finished run."""
        content = self._checked(SUMMARY, _SUMMARY)
        if content["positive"] not in ("", *content["classes"]):
            raise self._damaged(SUMMARY, "positive: is none of the classes")
        return content

    def preprocessing(self) -> dict[str, Any]:
        """What turns an image into the input of the network; agrees with the config."""
        content = self._checked(PREPROCESSING, _PREPROCESSING, optional={"init": _init})
        if content["positive"] not in ("", *content["classes"]):
            raise self._damaged(PREPROCESSING, "positive: is none of the classes")
        config = self.config()
        content["model"] = {**config.model.to_dict(), **content["model"]}
        pairs = {
            "data": config.data.name,
            "image_size": config.data.image_size,
            "crop": config.data.crop,
            "denoise": config.data.denoise,
            "compute_dtype": config.compute_dtype,
            "model": config.model.to_dict(),
        }
        for name, expected in pairs.items():
            if content[name] != expected:
                raise self._damaged(PREPROCESSING, f"{name}: differs from {CONFIG}")
        return content

    def has_predictions(self, part: str) -> bool:
        """Whether the predictions of a part are written."""
        return (self.folder / "predictions" / f"{part}.csv").is_file()

    def write_predictions(self, part: str, predictions: Predictions) -> None:
        """Writes the predictions of a part."""
        predictions.write(self.path("predictions", f"{part}.csv"))

    def predictions(self, part: str) -> Predictions:
        """The predictions of a part, as leukjax computed them (float32), checked."""
        path = self.folder / "predictions" / f"{part}.csv"
        found = tables.read(path)
        tables.check(path, found)
        return found

    def split(self) -> dict[str, tuple[str, str, str, str]]:
        """Id -> (subject, group, label, part) of split.csv, in its order."""
        rows = self.table(SPLIT, ("id", "subject", "group", "label", "part"), required=True)
        found = {name: (subject, group, label, part) for name, subject, group, label, part in rows}
        if len(found) < len(rows):
            raise self._damaged(SPLIT, "an id occurs twice")
        if not {row[3] for row in found.values()} <= set(PARTS):
            raise self._damaged(SPLIT, "part: must be train, val, test, held_out or nothing")
        return found

    def table(
        self, name: str, columns: Sequence[str], *, required: bool = False
    ) -> list[tuple[str, ...]]:
        """These columns of a CSV below the folder, as rows; none where there is no such file.

        Raises:
          UserError: it is no CSV, too large, or misses a column.
        """
        header, rows = self.csv_rows(name, required=required)
        missing = [column for column in columns if header and column not in header]
        if missing:
            raise self._damaged(name, f"misses the columns {', '.join(missing)}")
        places = [header.index(column) for column in columns] if header else []
        return [tuple(row[place] for place in places) for row in rows]

    def csv_rows(self, name: str, *, required: bool = False) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a CSV below the folder; both empty where there is no such file.

        Raises:
          UserError: it is no CSV, or too large.
        """
        path = self.folder / name
        if not required and not os.path.lexists(path):
            return [], []
        try:
            reader = csv.reader(io.StringIO(storage.read_text(path, MAX_TABLE), newline=""))
            header = next(reader, [])
            if not header:
                raise ValueError("is empty")
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    raise ValueError("a row has more or fewer columns than the header")
                if any(len(value) > MAX_TEXT for value in row):
                    raise ValueError(f"a value has more than {MAX_TEXT:,} characters")
                if len(rows) == tables.MAX_ROWS:
                    raise ValueError(f"has more than {tables.MAX_ROWS:,} rows")
                rows.append(row)
        except (OSError, ValueError, csv.Error) as error:
            raise self._damaged(name, error) from error
        return header, rows

    def history(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line that a kill cut short is left out."""
        lines = []
        for line in self._lines(METRICS):
            try:
                record = json.loads(line)
                _line_of_history(record)
            except (ValueError, RecursionError):
                break
            lines.append(record)
        return lines

    def truncate_history(self, step: int) -> None:
        """Drops lines of metrics.jsonl after a step: a killed run wrote them, and a resumed one
        writes them again.
        """
        kept = [record for record in self.history() if record["step"] <= step]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept))

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl; it is on the disk when this returns.

        Raises:
          OSError: it cannot be written.
        """
        storage.append_line(self.path(METRICS), record)

    def seconds_trained(self) -> float:
        """Seconds of training and validation up to the last line of metrics.jsonl."""
        return max((record.get("elapsed", 0.0) for record in self.history()), default=0.0)

    def open_reached(self) -> IO[bytes]:
        """Opens the file that holds the last step done; write each with `write_reached`."""
        return self.path(REACHED).open("wb", buffering=0)

    def write_reached(self, file: IO[bytes], step: int) -> None:
        """Writes a step to the file of `open_reached`: a kill leaves the last one in it."""
        os.pwrite(file.fileno(), b"%20d\n" % step, 0)

    def reached(self) -> int:
        """The last step that any start has done, whether it was saved or not; 0 without one."""
        try:
            return int(storage.read_text(self.folder / REACHED, 64))
        except (OSError, ValueError):
            return 0

    def study_accesses(self) -> list[dict[str, Any]]:
        """Of a study's folder: one record per access to the held-out part."""
        return self._json_lines(LEDGER_OF_STUDY, {"model": _text})

    def starts(self) -> list[dict[str, Any]]:
        """One record per start of the run: the step, and the steps that were repeated."""
        return self._json_lines(STARTS, {"step": _whole(0, 2**53), "repeated": _whole(0, 2**53)})

    def record_start(self, step: int, repeated: int) -> None:
        """Records a start of the run.

        Args:
          step: that it starts from.
          repeated: steps that a killed start had done after its last checkpoint.
        """
        self._append(STARTS, {"step": step, "repeated": repeated, "time": round(time.time(), 3)})

    def steps_repeated(self) -> int:
        """Steps that were trained twice because of kills."""
        return sum(start["repeated"] for start in self.starts())

    # The ledger of test accesses.

    def test_accesses(self) -> int:
        """Returns how often the test part was accessed."""
        return sum(1 for line in self._lines(LEDGER) if line.strip())

    def record_test_access(self, step: int, **more: str) -> None:
        """Records an access to the test part; call it before the part is read."""
        self._append(LEDGER, {"step": step, "part": "test", **more})

    def record_study_access(self, model: str, part: str, runs: int) -> None:
        """Records, in a study's folder, an access to the held-out part by an ensemble."""
        self._append(LEDGER_OF_STUDY, {"model": model, "part": part, "runs": runs})

    # Is this the same data?

    def check_same_data(
        self,
        *,
        records_sha256: str,
        classes: Sequence[str],
        image_size: int,
        split_sha256: str | None = None,
    ) -> None:
        """Check that images found now are those that the run was trained on.

        Raises:
          UserError: they are others, or split otherwise.
        """
        facts, said = self.data(), self.preprocessing()
        for name, now in (("records_sha256", records_sha256), ("split_sha256", split_sha256)):
            if now is not None and facts[name] != now:
                raise UserError(
                    f"--workdir={self.folder}: was trained on other images than those there now, "
                    f"or on another split ({name} differs); give the same images by "
                    "--config.data.root=FOLDER"
                )
        if list(classes) != said["classes"] or image_size != said["image_size"]:
            raise self._damaged(PREPROCESSING, "classes or image_size: are not those of the data")
        if self.is_finished and self.summary()["classes"] != said["classes"]:
            raise self._damaged(SUMMARY, f"classes: are not those of {PREPROCESSING}")

    def claim(self, config: ConfigDict, facts: Mapping[str, Any]) -> bool:
        """Write config.json and data.json, or check that the run in the folder is this one.

        Args:
          config: of this start.
          facts: what else makes the run: checksums and counts of records and split.

        Returns:
          True if a run is already there, to be resumed.

        Raises:
          UserError: the run there has another config, other data or another split; the message
            names every difference.
        """
        now = {CONFIG: config.to_dict(), DATA: dict(facts)}
        if not os.path.lexists(self.folder / CONFIG):
            # config.json last: where it is, the run has begun.
            for name in (DATA, CONFIG):
                storage.write_atomic(self.folder / name, json.dumps(now[name], indent=1) + "\n")
            return False
        changed = []
        for name, content in now.items():
            try:
                before = storage.read_json(self.folder / name, MAX_JSON)
                changed += configs.differences(before, content, ignore=configs.free_fields())
            except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{self.folder / name}: cannot be read ({_reason(error)}); choose another "
                    "--workdir"
                ) from error
        if changed:
            raise UserError(
                f"--workdir={self.folder} holds a run that differs from this one: "
                f"{'; '.join(changed)}; undo the change or choose another --workdir"
            )
        return True

    # Writing.

    def path(self, *names: str) -> Path:
        """A path below the folder, to be written or removed: no part of it may be a link.

        Raises:
          UserError: a part is a symbolic link, which may lead outside the run.
        """
        path = self.folder
        for name in names:
            path = path / name
            if path.is_symlink():
                raise UserError(
                    f"{path}: is a symbolic link, which may lead outside the run; remove it"
                )
        return path

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file of the folder, whole or not at all.

        Args:
          name: relative to the folder, with "/" between its parts.
          content: text or bytes.

        Raises:
          UserError: a part of the path is a symbolic link.
        """
        storage.write_atomic(self.path(*name.split("/")), content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file as `write`."""
        self.write(name, json.dumps(content, indent=1) + "\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[IO[bytes]]:
        """Hold the folder for this process; the lock ends with it, however it ends.

        What is yielded is the lock: a child that inherits its file holds the folder as well.
        A folder that is still empty at the end (the command failed before the run began) is
        removed.

        Raises:
          UserError: the folder cannot be written, another process works in it, its lock file is a
            link, or it was removed or unmounted while it was held.
        """
        with contextlib.ExitStack() as stack:
            try:
                storage.require_utf8(self.folder.absolute())
                made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
                handle = self._acquire(stack)
            except BlockingIOError as error:
                raise UserError(
                    f"--workdir={self.folder}: another process is working in it; "
                    "wait for it or choose another folder"
                ) from error
            except (OSError, ValueError) as error:
                raise UserError(
                    f"--workdir={self.folder}: cannot be written ({_reason(error)}); "
                    "choose another folder"
                ) from error
            try:
                yield handle
            except Exception as error:
                self._check_still_there(handle, error)
                raise
            else:
                self._check_still_there(handle)
            finally:
                self._remove_if_empty(handle, made)

    def _acquire(self, stack: contextlib.ExitStack) -> IO[bytes]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as attempt:
                handle = attempt.enter_context(storage.lock(self.folder / LOCK, wait=False))
                if self._is_ours(handle):
                    stack.push(attempt.pop_all())
                    return handle
            # Its holder ended and removed it after we had opened it.

    def _is_ours(self, handle: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.stat(self.folder / LOCK), os.fstat(handle.fileno()))
        except OSError:
            return False

    def _check_still_there(self, handle: IO[bytes], error: Exception | None = None) -> None:
        if not self._is_ours(handle):
            raise UserError(
                f"--workdir={self.folder}: was removed, replaced or unmounted in the middle of the "
                "run; bring it back and start again, or choose another folder"
            ) from error

    def _remove_if_empty(self, handle: IO[bytes], made: list[Path]) -> None:
        """Remove the lock file, and the folders that were made for it, unless there is more."""
        if not self._is_ours(handle) or len(list(self.folder.iterdir())) > 1:
            return
        with contextlib.suppress(OSError):
            (self.folder / LOCK).unlink()
            for path in made:
                path.rmdir()

    # Reading files.

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
          UserError: it is missing, no regular file, too large, or no JSON.
        """
        path = self.folder / name
        try:
            return storage.read_json(path, MAX_JSON)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder}: holds no run (no {name}); give a work directory"
            ) from error
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def arrays(
        self, name: str, largest: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray] | None:
        """Arrays of an .npz, whose sizes are checked before anything is allocated.

        Args:
          name: of the file.
          largest: the largest shape of each array that is read.

        Returns:
          The arrays, all of finite numbers; None where there is no such file.

        Raises:
          UserError: a damaged file, or an array that is missing or larger.
        """
        path = self.folder / name
        if not os.path.lexists(path):
            return None
        try:
            with storage.open_regular(path) as file, zipfile.ZipFile(file) as archive:
                return {key: _array(archive, key, shape) for key, shape in largest.items()}
        except Exception as error:  # zip, header and arrays each have their own
            raise UserError(f"{path}: cannot be read ({_reason(error)}); remove it") from error

    def _checked(
        self, name: str, fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None
    ) -> dict[str, Any]:
        content = self.read_json(name)
        try:
            check_fields(content, fields, optional or {})
        except ValueError as error:
            raise self._damaged(name, error) from error
        return content

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        if not os.path.lexists(path):
            return []
        try:
            return storage.read_text(path, MAX_LOG).split("\n")
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _json_lines(self, name: str, fields: Mapping[str, Check]) -> list[dict[str, Any]]:
        try:
            records = [json.loads(line) for line in self._lines(name) if line.strip()]
            for record in records:
                check_fields(record, fields, {})
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, error) from error
        return records

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        path = self.folder / name
        try:
            storage.append_line(path, record)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({_reason(error)}); make it a file that you may write"
            ) from error

    def _damaged(self, name: str, why: object) -> UserError:
        return UserError(
            f"{self.folder / name}: cannot be read ({_reason(why)}); copy the run again"
        )


def check_fields(
    content: Any, fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None
) -> None:
    """Check a JSON object; fields that are not named may hold anything and are never read.

    Raises:
      ValueError: what is wrong, by name.
    """
    if not isinstance(content, dict):
        raise ValueError("must be a JSON object")
    for name, check in {**fields, **(optional or {})}.items():
        if name not in content:
            if name in fields:
                raise ValueError(f"lacks {name}")
            continue
        try:
            check(content[name])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error


def _reason(error: object) -> str:
    """What is wrong, in a line of bounded length."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, AttributeError | TypeError | RecursionError):
        return "must be a JSON object of fields and values"
    return _short(str(error) or type(error).__name__)


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


def _array(archive: zipfile.ZipFile, key: str, largest: tuple[int, ...]) -> np.ndarray:
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key}: packed in a way that no run writes")
    form: Any = np.lib.format
    with archive.open(entry) as file:
        if form.read_magic(file) != (1, 0):
            raise ValueError(f"{key}: another version of the format")
        shape, fortran, dtype = form.read_array_header_1_0(file)
        if len(shape) != len(largest) or any(
            not 0 <= size <= most for size, most in zip(shape, largest, strict=True)
        ):
            raise ValueError(f"{key}: has the shape {shape}, and no more than {largest} fits")
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise ValueError(f"{key}: holds {dtype}, which is no number")
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{key}: holds another number of values than it claims")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: holds values that are not finite")
    return array


def _text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"must be a text of at most {MAX_TEXT:,} characters")


def _flag(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> None:
        if not _is_number(value) or not low <= value <= high:  # false for NaN as well
            raise ValueError(f"must be a number from {low:g} to {high:g}")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*choices: Any) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(map(str, choices))}")

    return check


def _triple(low: float, high: float) -> Check:
    each = _number(low, high)

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError("must be a list of three numbers")
        for number in value:
            each(number)

    return check


def _classes(value: Any) -> None:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CLASSES:
        raise ValueError(f"must be a list of 2 to {MAX_CLASSES:,} names")
    for name in value:
        _text(name)
    if len(set(value)) < len(value) or "" in value:
        raise ValueError("must be different names, none of them empty")


def _versions(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError("must be a JSON object of at most 100 versions")
    for name, version in value.items():
        _text(name)
        _text(version)


def _init(value: Any) -> None:
    check_fields(value, _INIT)


def _line_of_history(record: Any) -> None:
    check_fields(record, {"step": _whole(0, 2**53), "part": _text}, {"epoch": _number(0, 1e9)})
    for name, value in record.items():
        if name != "part" and not (value is None or _is_number(value)):
            raise ValueError(f"{name[:100]}: must be a number")
        if _is_number(value):
            float(value)  # not beyond the range of float64


_COUNT = _whole(0, 2**53)
_INIT: dict[str, Check] = {
    "weights": _text,
    "sha256": _text,
    "layout": _text,
    "mean": _triple(-10, 10),
    "std": _triple(MIN_STD, 10),
}


def _protocol(value: Any) -> None:
    field = configs.fields()["split.protocol"]
    assert isinstance(field, Choice)
    _one_of(*field.values)(value)


_DATA: dict[str, Check] = {"records_sha256": _text, "split_sha256": _text}
_DATA_OPTIONAL: dict[str, Check] = {
    "images": _COUNT,
    "subjects": _COUNT,
    "groups": _COUNT,
    "classes": _classes,
    "protocol": _protocol,
    "init": _init,
}
_SUMMARY: dict[str, Check] = {
    "model": _text,
    "parameters": _COUNT,
    "flops_per_image": _number(0, 1e18),
    "data": _text,
    "synthetic": _flag,
    "subjects_known": _flag,
    "protocol": _text,
    "leaky": _flag,
    "classes": _classes,
    "positive": _text,
    "epoch_chosen": _number(0, 1e9),
    "chosen_by": _text,
    "test_openings": _COUNT,
    "seconds_trained": _number(0, 1e12),
    "device": _text,
    "versions": _versions,
}
_PREPROCESSING: dict[str, Check] = {
    "classes": _classes,
    "positive": _text,
    "data": _text,
    "synthetic": _flag,
    "background": _one_of("black", "bright"),
    "crop": _whole(0, 7_000),
    "denoise": _text,
    "image_size": _whole(8, 2048),
    "resize": _text,
    "scale": _text,
    "mean": _triple(-10, 10),
    "std": _triple(MIN_STD, 10),
    "model": lambda value: check_fields(value, {"name": _text}),
    "compute_dtype": _text,
    "versions": _versions,
}
