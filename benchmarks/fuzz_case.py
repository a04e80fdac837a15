"""One case of fuzz.py: makes its input, runs it, keeps its folder if it failed."""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging
import broken_configs
import broken_environments
import broken_files
import broken_images
import broken_names
import broken_runs
import broken_tables
import broken_weights
import fuzz_check
import fuzz_watch
import numpy as np
from broken_case import FIELDS, Case, Surroundings
from ml_collections import ConfigDict

KINDS: dict[str, tuple[Callable, float]] = {  # with the share of all cases
    "image": (broken_files.images, 0.1),
    "table": (broken_files.table, 0.05),
    "tables": (broken_tables.tables, 0.06),
    "labels": (broken_files.labels, 0.03),
    "zip": (broken_files.zip_file, 0.06),
    "folder": (broken_files.tree, 0.05),
    "field": (broken_configs.field, 0.05),
    "extreme": (broken_configs.extreme, 0.03),
    "config file": (broken_configs.config_file, 0.04),
    "cache": (broken_files.cache, 0.03),
    "weights": (broken_weights.weights, 0.02),
    "run": (broken_runs.run, 0.34),
    "hostile": (broken_images.hostile, 0.06),
    "hostile training": (broken_images.hostile_training, 0.02),
    "names": (broken_names.names, 0.08),
    "environment": (broken_environments.environment, 0.04),
}


# Kinds whose cases end after the images are read: as processes, in which JAX is imported, most of
# the time would go elsewhere.
_READ_ONLY = ("tables",)


class Hang(BaseException):
    """Raised by the alarm of a case."""


def run_case(
    number: int,
    settings: dict[str, Any],
    recorder: fuzz_watch.Recorder,
    started: Callable[[Path, str, str], None],
) -> dict[str, Any]:
    """Makes, runs and checks a case.

    Args:
      number: of the case.
      settings: the flags of fuzz.py.
      recorder: of writes and imports.
      started: called with folder, kind and changes before anything runs.

    Returns:
      number, kind, end, problem ("" = none), kept, output, seconds, peak.
    """
    folder = Path(tempfile.mkdtemp(prefix="leukjax-fuzz-"))
    kept = Path(settings["keep"]) / f"seed{settings['seed']}-case{number}"
    try:
        random = np.random.default_rng([settings["seed"], number])
        try:
            case = draw(folder, random, settings["kind"])
        except Exception:
            # An error of fuzz.py, not of leukjax; the case counts as failed.
            return {"number": number, "kind": "?", "end": "NOT MADE", "kept": "", "seconds": 0.0,
                    "changes": "",
                    "problem": "fuzz.py raised", "output": traceback.format_exc(),
                    "peak": 0}  # fmt: skip
        whole = case.kind not in _READ_ONLY
        trains = whole and _every(number, settings["train_every"])
        alone = whole and _every(number, settings["process_every"])
        alone = alone or case.surroundings is not None
        changes = ascii("; ".join(case.changes))
        started(folder, _label(case, trains, alone), changes)
        before = {name: fuzz_watch.snapshot(folder / name) for name in ("outside", "inputs", "run")}
        began = time.perf_counter()
        if alone:
            trains = True
            ended = run_process(case, settings["timeout"])
        else:
            ended = run_here(case, trains, settings["timeout"], recorder)
        problem = ended.pop("problem", "") or fuzz_check.check(case, trains, before, **ended)
        if settings["only"] >= 0:
            print(case.command, case.argv(), case.surroundings, ended["out"], ended["err"],
                  sep="\n")  # fmt: skip
        if problem:
            keep(folder, kept)
            about = {"command": case.command, "argv": case.argv(), "changes": case.changes}
            if case.surroundings is not None:
                about |= vars(case.surroundings) | {"cwd": str(case.surroundings.cwd)}
            (kept / "argv.json").write_text(json.dumps(about, indent=1))
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
    ends = {0: "succeeded", 1: "refused in one line"}
    status = ended["status"]
    return {
        "number": number,
        "kind": _label(case, trains, alone),
        "end": "FAILED" if problem else ends.get(status, f"status {status}"),
        "problem": problem,
        "changes": changes,
        "kept": str(kept),
        "output": ended["err"][-3000:],
        "seconds": time.perf_counter() - began,
        "peak": ended["peak"],
    }


def _every(number: int, period: int) -> bool:
    return period > 0 and number % period == 0


def _label(case: Case, trains: bool, alone: bool) -> str:
    how = ", process" if alone else ", trained" if trains and case.command == "main" else ""
    command = "" if case.command == "main" else f" {case.command}"
    return f"{case.kind}{command}{how}"


def draw(folder: Path, random: np.random.Generator, kinds: list[str]) -> Case:
    """Makes the input of a case in an empty folder; the same generator gives the same input.

    Args:
      folder: gets the input.
      random: decides everything.
      kinds: what may be damaged; empty = everything.
    """
    absl.logging.set_verbosity(absl.logging.ERROR)  # of what is prepared to be damaged
    names = kinds or list(KINDS)
    shares = np.array([KINDS[name][1] for name in names])
    kind = str(random.choice(names, p=shares / shares.sum()))
    fields = FIELDS | {"data.cache_dir": folder / "cache"}
    case = Case(kind, folder, "cnn:image_folder", fields)
    case.fields["data.bad_images"] = str(random.choice(("error", "skip")))
    KINDS[kind][0](case, random)
    return case


def keep(folder: Path, kept: Path) -> None:
    """Copies the input of a failed case, without pipes, links to devices and huge files."""

    def leave_out(parent: str, names: list[str]) -> list[str]:
        paths = [Path(parent) / name for name in names]
        return [
            path.name
            for path in paths
            if not path.is_symlink() and not path.is_dir()
            and (not path.is_file() or path.stat().st_size > 10**8)
        ]  # fmt: skip

    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(shutil.Error, OSError):
        shutil.copytree(folder, kept, symlinks=True, ignore=leave_out)
    kept.mkdir(parents=True, exist_ok=True)


def run_here(
    case: Case, trains: bool, timeout: int, recorder: fuzz_watch.Recorder
) -> dict[str, Any]:
    """Runs a command in this process; status None: it raised."""
    from leukjax import command
    from leukjax.__main__ import module_of

    def ring(*_: object) -> None:
        raise Hang(f"after {timeout} s")

    module = importlib.import_module(module_of(case.command))
    _as_if_new(module)
    doing = module.main if trains or case.command != "main" else _prepare
    doing = _read_images if case.kind in _READ_ONLY else doing
    signal.signal(signal.SIGALRM, ring)
    fuzz_watch.forget_peak()
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        # Inside a C library the alarm has no effect: the process is ended.
        faulthandler.dump_traceback_later(2 * timeout, exit=True, file=kept[1])
        signal.alarm(timeout)
        recorder.start()
        try:
            status = command.status(doing, module.FLAGS, case.argv(), doc=module.__doc__)
        except BaseException:
            status = None
            traceback.print_exc()
        finally:
            recorder.active = False
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        allowed = [Path(os.environ["LEUKJAX_FUZZ_BASE"])]
        problem = "; ".join(recorder.problems[:1]) or fuzz_watch.written_elsewhere(
            recorder, allowed, case.folder / "outside"
        )
        return {"status": status, "out": _read(out), "err": _read(err), "problem": problem,
                "peak": fuzz_watch.peak()}  # fmt: skip


def _as_if_new(module: Any) -> None:
    """Resets the flags and JAX settings of earlier cases."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    logging.getLogger().handlers.clear()  # a library that logs without a logger adds one
    module.FLAGS.unparse_flags()
    for name in module.FLAGS:
        module.FLAGS[name].unparse()
    if jax.config.jax_compilation_cache_dir != os.environ["JAX_COMPILATION_CACHE_DIR"]:
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        compilation_cache.reset_cache()


def _read(file: Any) -> str:
    file.seek(0)
    return file.read(2**24).decode(errors="replace")


def run_process(case: Case, timeout: int) -> dict[str, Any]:
    """Runs a command as a process, in the surroundings of the case."""
    odd = case.surroundings or Surroundings()
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        streams = broken_environments.open_streams(odd.streams, out.fileno(), err.fileno())
        cwd = odd.cwd or Path(tempfile.mkdtemp(prefix="cwd-", dir=case.folder))
        process = subprocess.Popen(
            broken_environments.launcher(odd, case.command, case.argv()),
            **{name: streams.get(number, subprocess.DEVNULL)
               for number, name in enumerate(("stdin", "stdout", "stderr"))},
            env={"PYTHONPATH": str(broken_runs.REPOSITORY)} | odd.variables_now(),
            cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        for descriptor in streams.values():
            os.close(descriptor)
        problem, peak = _watch(process, 2 * timeout)
        if not problem and odd.cwd is None and any(cwd.iterdir()):
            problem = f"left {next(cwd.iterdir()).name} in the working directory"
        return {"status": process.returncode, "out": _read(out), "err": _read(err),
                "problem": problem, "peak": peak}  # fmt: skip


def _watch(process: subprocess.Popen, timeout: int) -> tuple[str, int]:
    """Waits for a process; returns its problem, and its peak memory."""
    ends, peak, problem = time.monotonic() + timeout, 0, ""
    while process.poll() is None:
        peak = max(peak, *(fuzz_watch.peak(member) for member in fuzz_watch.family(process.pid)))
        if peak > fuzz_watch.MEMORY:
            problem = f"held {peak / 1e9:.1f} GB"
        elif time.monotonic() > ends:
            problem = f"did not end within {timeout} s"
        if problem:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.1)
    return problem, peak


def _prepare(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Does what `leukjax.main` does before the model is built."""
    from leukjax import command
    from leukjax.training.training_data import make_batches, records_of, split_of

    config = command.one_config(names, overrides, arguments)
    if config.init.weights:
        _find_weights(config)
        return
    records = records_of(config)
    chosen = split_of(config, records)
    make_batches(config, records, chosen.rows("train"), config.train.batch_size, training=True)
    images = records.images(np.arange(len(records)))
    assert hashlib.sha256(images.data).hexdigest() == records.checksum, "read other pixels"


def _read_images(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Makes the data set, reads every image and splits them."""
    from leukjax import command
    from leukjax.data import datasets, split

    config = command.one_config(names, overrides, arguments)
    dataset = datasets.make_dataset(config.data)
    manifest = dataset.scan(config.data.cache_dir, threads=1)
    split.make_split(manifest, config.split.protocol, config.split.seed,
                     official_parts=dataset.official_parts)  # fmt: skip


def _find_weights(config: ConfigDict) -> None:
    """Does what `leukjax.main` does with weights for a new run."""
    from leukjax.models.registry import create_model, select_options
    from leukjax.training import pretrained

    name = config.model.name
    module = create_model(name, 2, **select_options(name, config.model))
    start = pretrained.find(config, module, ("blast", "healthy"), Path("none"))
    assert start.mapped is not None
    broken_weights.check(Path(config.init.weights), config.init.sha256, start.mapped)
