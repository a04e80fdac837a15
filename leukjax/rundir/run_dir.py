"""`RunDir`: the only code that reads and writes the files of a work directory.

A work directory may come from an untrusted source: every file is a regular file of bounded size,
every value is checked for type and bounds, and nothing in it says where files of this machine are,
how the machine works, or what code to run.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import storage
from leukjax.errors import NotRegistered, UserError
from leukjax.metrics import predictions as tables
from leukjax.metrics.predictions import Predictions
from leukjax.rundir import files, lock, schema
from leukjax.rundir.files import reason

CONFIG, DATA = "config.json", "data.json"
PREPROCESSING, SUMMARY = "preprocessing.json", "summary.json"
SPLIT, ATTRIBUTES = "split.csv", "attributes.csv"
METRICS, STARTS = "metrics.jsonl", "starts.jsonl"
LEDGER, LEDGER_OF_STUDY = "test_openings.jsonl", "ledger.jsonl"
UNLIKENESS = "unlikeness.npz"
TRACKERS = "trackers.json"
REACHED = ".reached"  # the last step that a start has done
PARTS = ("train", "val", "test", "held_out", "")


class RunDir:
    """A work directory.

    Attributes:
      folder: its path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Reads nothing yet."""
        self.folder = Path(folder)

    @property
    def is_finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.folder / SUMMARY).is_file()

    def require(self, *names: str) -> None:
        """Checks that files of a finished run exist.

        Raises:
          UserError: the folder holds no run, or an unfinished one.
        """
        if not (self.folder / CONFIG).is_file():
            raise UserError(f"{self.folder}: holds no run (no {CONFIG}); give a work directory")
        for name in names:
            if not (self.folder / name).is_file():
                fix = "train to the end: python -m leukjax.main …, or fit(…, test=split.test)"
                raise UserError(
                    f"{self.folder}: the run is not finished ({name} is missing); {fix}"
                )

    # The config, and what the run was trained on.

    def config(self, overrides: Iterable[tuple[str, Any]] = ()) -> ConfigDict:
        """Returns the config of the run, with this machine's own paths and settings.

        Args:
          overrides: fields that the user gives for this machine, for instance ``data.root``.

        Raises:
          UserError: no run, a damaged config, or an override on which numbers depend.
        """
        config, _ = self._configs()
        configs.of_this_machine(config, overrides, f"{self.folder}")
        return config

    def recorded(self) -> dict[str, Any]:
        """Returns all fields of config.json as recorded: for display, never to be used."""
        return self._configs()[1]

    def config_with_data(self, overrides: Iterable[tuple[str, Any]] = ()) -> ConfigDict:
        """Returns `config`, for commands that read the images.

        Raises:
          UserError: as `config`; or the images are in a folder, and the user gives none.
        """
        self._refuse_probe()
        config, recorded = self.config(overrides), self.recorded()
        flat = configs.flatten(config)
        paths = [name for name in configs.path_fields() if name.startswith("data.")]
        unused = ["data.cache_dir", *(paths if config.data.name == "smears" else [])]
        for name in paths:
            if name not in unused and recorded[name] and not flat[name]:
                before = files.short(repr(recorded[name]))
                raise UserError(
                    f"--config.{name} is missing: {self.folder} was trained with {before}, "
                    f"and paths in a run are not used; give --config.{name}=PATH"
                )
        return config

    def _configs(self) -> tuple[ConfigDict, dict[str, Any]]:
        content = self.read_json(CONFIG)
        try:
            return configs.of_finished_run(content)
        except NotRegistered as error:
            raise UserError(f"{self.folder}: {error}") from error
        except UserError as error:
            raise self._damaged(CONFIG, error) from error

    def data(self) -> dict[str, Any]:
        """Returns what data.json records of the images: checksums, counts, classes, protocol."""
        return self._checked(DATA, schema.DATA_FIELDS, optional=schema.DATA_OPTIONAL)

    def summary(self) -> dict[str, Any]:
        """Returns what summary.json records of a finished run."""
        content = self._checked(SUMMARY, schema.SUMMARY_FIELDS, schema.SUMMARY_OPTIONAL)
        # Runs before these were recorded had none of them.
        content = {"rare_classes": [], "groups": "auto", "probe": "", **content}
        if not set(content["rare_classes"]) <= set(content["classes"]):
            raise self._damaged(SUMMARY, "rare_classes: are not among the classes")
        self._check_positive(SUMMARY, content)
        return content

    def preprocessing(self) -> dict[str, Any]:
        """Returns how an image becomes the input of the network; agrees with the config.

        Raises:
          UserError: no run, a probe (which has no network), or a damaged file.
        """
        self._refuse_probe()
        optional = schema.PREPROCESSING_OPTIONAL
        content = self._checked(PREPROCESSING, schema.PREPROCESSING_FIELDS, optional=optional)
        content.setdefault("stain", "none")  # runs before it was recorded had none
        if content["stain"] != "none" and "stain_target" not in content:
            raise self._damaged(PREPROCESSING, "lacks stain_target")
        self._check_positive(PREPROCESSING, content)
        config = self.config()
        content["model"] = {**config.model.to_dict(), **content["model"]}
        pairs = {
            "data": config.data.name,
            "image_size": config.data.image_size,
            "crop": config.data.crop,
            "denoise": config.data.denoise,
            "stain": config.data.stain,
            "compute_dtype": config.compute_dtype,
            "model": config.model.to_dict(),
        }
        for name, expected in pairs.items():
            if content[name] != expected:
                raise self._damaged(PREPROCESSING, f"{name}: differs from {CONFIG}")
        return content

    def _refuse_probe(self) -> None:
        if (self.folder / PREPROCESSING).exists() or not self.is_finished:
            return
        if self.summary()["probe"]:
            raise UserError(
                f"{self.folder}: is a probe, which has predictions and no network; give a run of "
                "leukjax.main, or compare probes with leukjax.compare"
            )

    def _check_positive(self, name: str, content: Mapping[str, Any]) -> None:
        if content["positive"] not in ("", *content["classes"]):
            raise self._damaged(name, "positive: is none of the classes")

    def claim(self, config: ConfigDict, facts: Mapping[str, Any]) -> bool:
        """Writes config.json and data.json, or checks that the run in the folder is this one.

        Args:
          config: of this start.
          facts: what else identifies the run: checksums and counts of records and split.

        Returns:
          True if the folder already holds the run, which is to be resumed.

        Raises:
          UserError: the run there has another config, other data or another split; the message
            names every difference.
        """
        now = {CONFIG: config.to_dict(), DATA: dict(facts)}
        if not os.path.lexists(self.folder / CONFIG):
            # config.json last: once it exists, the run has begun.
            for name in (DATA, CONFIG):
                self.write_json(name, now[name])
            return False
        changed = []
        for name, content in now.items():
            try:
                before = storage.read_json(self.folder / name, files.MAX_JSON)
                changed += configs.differences(before, content, ignore=configs.free_fields())
            except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{self.folder / name}: cannot be read ({reason(error)}); choose another folder"
                ) from error
        if changed:
            raise UserError(
                f"{self.folder} holds a run that differs from this one: "
                f"{'; '.join(changed)}; undo the change or choose another folder"
            )
        return True

    def check_same_data(
        self,
        *,
        records_sha256: str,
        classes: Sequence[str],
        image_size: int,
        split_sha256: str | None = None,
    ) -> None:
        """Checks that images are those that the run was trained on.

        Raises:
          UserError: they are others, or split differently.
        """
        recorded, preprocessing = self.data(), self.preprocessing()
        for name, now in (("records_sha256", records_sha256), ("split_sha256", split_sha256)):
            if now is not None and recorded[name] != now:
                raise UserError(
                    f"{self.folder}: was trained on other images than those there now, "
                    f"or on another split ({name} differs); give the same images by "
                    "--config.data.root=FOLDER"
                )
        if list(classes) != preprocessing["classes"] or image_size != preprocessing["image_size"]:
            raise self._damaged(PREPROCESSING, "classes or image_size: are not those of the data")
        if self.is_finished and self.summary()["classes"] != preprocessing["classes"]:
            raise self._damaged(SUMMARY, f"classes: are not those of {PREPROCESSING}")

    # Predictions and tables.

    def has_predictions(self, part: str) -> bool:
        """Returns whether the predictions of a part are written."""
        return (self.folder / "predictions" / f"{part}.csv").is_file()

    def write_predictions(self, part: str, predictions: Predictions) -> None:
        """Writes the predictions of a part."""
        predictions.write(self.path("predictions", f"{part}.csv"))

    def predictions(self, part: str) -> Predictions:
        """Returns the predictions of a part, checked."""
        path = self.folder / "predictions" / f"{part}.csv"
        predictions = tables.read(path)
        tables.check(path, predictions)
        return predictions

    def split(self) -> dict[str, tuple[str, str, str, str]]:
        """Returns id -> (subject, group, label, part) of split.csv, in its order."""
        rows = self.table(SPLIT, ("id", "subject", "group", "label", "part"), required=True)
        split = {name: (subject, group, label, part) for name, subject, group, label, part in rows}
        if len(split) < len(rows):
            raise self._damaged(SPLIT, "an id occurs twice")
        if not {row[3] for row in split.values()} <= set(PARTS):
            raise self._damaged(SPLIT, "part: must be train, val, test, held_out or nothing")
        return split

    def is_leaky(self) -> bool:
        """Returns whether the run was split by image, or groups are in several parts."""
        parts: dict[str, str] = {}
        rows = [row for row in self.split().values() if row[3]]
        crosses = any(parts.setdefault(group, part) != part for _, group, _, part in rows)
        return crosses or self.data().get("protocol") == "image"

    def attributes(self) -> dict[str, dict[str, str]]:
        """Returns column -> id -> value of attributes.csv; {} if there is no such file."""
        header, rows = self.csv_rows(ATTRIBUTES)
        if not header:
            return {}
        if header[0] != "id" or len(set(header)) < len(header):
            raise self._damaged(ATTRIBUTES, "its columns must be id and different names")
        if any(len(name) > schema.MAX_TEXT for name in header):
            raise self._damaged(ATTRIBUTES, "the name of a column is too long")
        if len({row[0] for row in rows}) < len(rows):
            raise self._damaged(ATTRIBUTES, "an id occurs twice")
        return {
            name: {row[0]: row[column] for row in rows}
            for column, name in enumerate(header[1:], start=1)
        }

    def table(
        self, name: str, columns: Sequence[str], *, required: bool = False
    ) -> list[tuple[str, ...]]:
        """Returns columns of a CSV below the folder, as rows; none if there is no such file.

        Raises:
          UserError: it is no CSV, too large, or misses a column.
        """
        header, rows = self.csv_rows(name, required=required)
        missing = [column for column in columns if header and column not in header]
        if missing:
            raise self._damaged(name, f"misses the columns {', '.join(missing)}")
        indices = [header.index(column) for column in columns] if header else []
        return [tuple(row[index] for index in indices) for row in rows]

    def csv_rows(self, name: str, *, required: bool = False) -> tuple[list[str], list[list[str]]]:
        """Returns header and rows of a CSV below the folder; both empty if there is no such file.

        Raises:
          UserError: it is no CSV, or too large.
        """
        path = self.folder / name
        if not required and not os.path.lexists(path):
            return [], []
        try:
            return files.read_rows(path)
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def arrays(
        self, name: str, largest: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray] | None:
        """Returns arrays of an .npz, whose sizes are checked before anything is allocated.

        Args:
          name: of the file.
          largest: the largest shape of each array that is read.

        Returns:
          The arrays, all of finite numbers; None if there is no such file.

        Raises:
          UserError: a damaged file, or an array that is missing or larger.
        """
        path = self.folder / name
        if not os.path.lexists(path):
            return None
        try:
            return files.read_arrays(path, largest)
        except Exception as error:  # zip, header and arrays raise their own
            raise UserError(f"{path}: cannot be read ({reason(error)}); remove it") from error

    # The history of the training, and its starts.

    def history(self) -> list[dict[str, Any]]:
        """Returns all complete lines of metrics.jsonl; one that a kill cut short is left out."""
        lines = []
        for line in self._lines(METRICS):
            try:
                record = json.loads(line)
                schema.check_history(record)
            except (ValueError, RecursionError):
                break
            lines.append(record)
        return lines

    def truncate_history(self, step: int) -> None:
        """Drops lines of metrics.jsonl after a step: a killed run wrote them, and the resumed run
        writes them again.
        """
        kept = [record for record in self.history() if record["step"] <= step]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept))

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl; it is on the disk when this returns.

        Raises:
          OSError: it cannot be written, or the folder was removed during the run.
        """
        os.stat(self.folder)  # a removed folder must not be created again
        storage.append_line(self.path(METRICS), record)

    def seconds_trained(self) -> float:
        """Returns the seconds of training and validation up to the last line of metrics.jsonl."""
        return max((record.get("elapsed", 0.0) for record in self.history()), default=0.0)

    def starts(self) -> list[dict[str, Any]]:
        """Returns one record per start of the run: the step, and the steps that were repeated."""
        whole = schema.whole(0, 2**53)
        return self._json_lines(STARTS, {"step": whole, "repeated": whole})

    def record_start(self, step: int, repeated: int) -> None:
        """Records a start of the run.

        Args:
          step: that it starts from.
          repeated: steps that a killed start had done after its last checkpoint.
        """
        self._append(STARTS, {"step": step, "repeated": repeated, "time": round(time.time(), 3)})

    def steps_repeated(self) -> int:
        """Returns how many steps were trained twice because of kills."""
        return sum(start["repeated"] for start in self.starts())

    def open_reached(self) -> IO[bytes]:
        """Opens the file that holds the last step done; write each with `write_reached`."""
        return self.path(REACHED).open("wb", buffering=0)

    def write_reached(self, file: IO[bytes], step: int) -> None:
        """Writes a step to the file of `open_reached`; a kill leaves the last one in it."""
        os.pwrite(file.fileno(), b"%20d\n" % step, 0)

    def reached(self) -> int:
        """Returns the last step that any start has done, saved or not; 0 without one."""
        try:
            return int(storage.read_text(self.folder / REACHED, 64))
        except (OSError, ValueError):
            return 0

    # The ledger of accesses to the test part.

    def test_accesses(self) -> int:
        """Returns how often the test part was accessed."""
        return sum(1 for line in self._lines(LEDGER) if line.strip())

    def record_test_access(self, step: int, **more: str) -> None:
        """Records an access to the test part; call it before the part is read."""
        self._append(LEDGER, {"step": step, "part": "test", **more})

    def study_accesses(self) -> list[dict[str, Any]]:
        """Returns, for a study's folder, one record per access to the held-out part."""
        return self._json_lines(LEDGER_OF_STUDY, {"model": schema.text})

    def record_study_access(self, model: str, part: str, runs: int) -> None:
        """Records, in a study's folder, an access to the held-out part by an ensemble."""
        self._append(LEDGER_OF_STUDY, {"model": model, "part": part, "runs": runs})

    def tracker_ids(self) -> dict[str, str]:
        """Returns the identifiers of the run in Weights & Biases and MLflow, where it has any."""
        if not (self.folder / TRACKERS).exists():
            return {}
        return self._checked(TRACKERS, {}, {"wandb": schema.text, "mlflow": schema.text})

    # Writing.

    def path(self, *names: str) -> Path:
        """Returns a path below the folder, to be written or removed: no part of it may be a link.

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

    def lock(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Locks the folder for this process (`lock.lock`)."""
        return lock.lock(self.folder)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        path = self.folder / name
        try:
            storage.append_line(path, record)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({reason(error)}); make it a file that you may write"
            ) from error

    # Reading.

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file.

        Raises:
          UserError: it is missing, no regular file, too large, or no JSON.
        """
        path = self.folder / name
        try:
            return storage.read_json(path, files.MAX_JSON)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder}: holds no run (no {name}); give a work directory"
            ) from error
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _checked(
        self,
        name: str,
        fields: Mapping[str, schema.Check],
        optional: Mapping[str, schema.Check] | None = None,
    ) -> dict[str, Any]:
        content = self.read_json(name)
        try:
            schema.check_fields(content, fields, optional or {})
        except ValueError as error:
            raise self._damaged(name, error) from error
        return content

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        if not os.path.lexists(path):
            return []
        try:
            return storage.read_text(path, files.MAX_LOG).split("\n")
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _json_lines(self, name: str, fields: Mapping[str, schema.Check]) -> list[dict[str, Any]]:
        try:
            records = [json.loads(line) for line in self._lines(name) if line.strip()]
            for record in records:
                schema.check_fields(record, fields, {})
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, error) from error
        return records

    def _damaged(self, name: str, error: object) -> UserError:
        return UserError(
            f"{self.folder / name}: cannot be read ({reason(error)}); copy the run again"
        )
