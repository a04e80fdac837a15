"""Checks how a case of fuzz.py ended."""

import csv
import re
import signal

import broken_names
import fuzz_watch
import numpy as np
from broken_case import Case

# Kinds with small inputs, for which "out of memory" is a failure.
_SMALL = ("run", "hostile", "names", "environment")
# Files that a command may change in a run that it reads.
_READERS = {"predict": {"unlikeness.npz"}, "explain": set(), "compare": set()}


def check(
    case: Case,
    trains: bool,
    before: dict[str, dict[str, str]],
    *,
    status: int | None,
    out: str,
    err: str,
    peak: int,
) -> str:
    """Returns the problem of a case, or ""."""
    odd = case.surroundings.streams if case.surroundings else {}
    return (
        _problem_of_words(case, status, out, err, odd)
        or (f"held {peak / 1e9:.1f} GB" if peak > fuzz_watch.MEMORY else "")
        or _problem_of_changes(case, before)
        or _problem_of_files(case, status, trains)
        or (_problem_of_tables(case) if status == 0 else "")
    )


def _problem_of_words(
    case: Case, status: int | None, out: str, err: str, odd: dict[int, str]
) -> str:
    lines = err.rstrip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if status is None:
        raised = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Hang)", line)]
        return f"raised: {(raised or lines or [''])[-1]}"
    if "Traceback" in err + out or "Exception ignored" in err:
        return "printed a traceback"
    # A name may begin with a dash, like a flag; a pipe without a reader may end the process.
    allowed = {0, 1} | ({2} if case.kind == "names" else set())
    allowed |= {-signal.SIGPIPE, 128 + signal.SIGPIPE} if "gone" in odd.values() else set()
    if status not in allowed:
        return f"ended with status {status}: {lines[-1] if lines else ''}"
    if status == 1 and 2 not in odd and (len(errors) != 1 or lines[-1] != errors[0]):
        return f"{len(errors)} lines of error, or more after it"
    if status == 1 and case.kind in _SMALL and errors and "out of memory" in errors[0]:
        return errors[0]
    letter = fuzz_watch.raw_control(out + err)
    return f"printed {letter} raw" if letter else ""


def _problem_of_changes(case: Case, before: dict[str, dict[str, str]]) -> str:
    """Checks that other files, images, and runs that are only read are unchanged."""
    for name, was in before.items():
        if name == "run" and case.command not in _READERS:
            continue
        now = fuzz_watch.changed(was, fuzz_watch.snapshot(case.folder / name))
        now = [path for path in now if name != "run" or path not in _READERS[case.command]]
        if was and now and (case.folder / name).exists():
            return f"changed {name}/{now[0]}"
    return ""


def _problem_of_files(case: Case, status: int | None, trains: bool) -> str:
    folder = case.folder
    if case.command == "main":
        if status == 0 and trains and not (folder / "run" / "summary.json").exists():
            return "ended well without a summary.json"
        if status == 1 and not trains and (folder / "run").exists():
            return "left a work directory"
    if (folder / "ran").exists():
        return "ran pickled code"
    for name in ("cache", "run", "out"):
        for path in (folder / name).rglob("*"):
            # Temporary names of files and folders: `storage.open_atomic`, `data.cache`
            temporary = r"\..+\.([a-z0-9_]{8}|[0-9a-f]{12})"
            if path.name.endswith(".tmp") or re.fullmatch(temporary, path.name):
                return f"left {path.relative_to(folder)}"
    return ""


def _problem_of_tables(case: Case) -> str:
    """Reads tables back: UTF-8, CSV, valid probabilities."""
    answers = case.folder / "out" / "answers.csv"
    for path in sorted((case.folder / "out").rglob("*.csv")):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file, strict=True)) or [[]]
        except (ValueError, csv.Error) as error:
            return f"{path.name} cannot be read back: {error}"
        if any(len(row) != len(header) for row in rows):
            return f"{path.name}: rows of other lengths than the header"
        if path == answers:
            problem = _problem_of_answers(header, rows, case)
            if problem:
                return f"{path.name}: {problem}"
    for path in (case.folder / "out").rglob("*.html"):
        if broken_names.MARKUP in path.read_text(errors="replace"):
            return f"{path.name}: contains a name as markup"
    return ""


def _problem_of_answers(header: list[str], rows: list[list[str]], case: Case) -> str:
    columns = [number for number, name in enumerate(header) if name.startswith("p_")]
    error = header.index("error")
    values = [[row[column] for column in columns] for row in rows]
    for row, cells in zip(rows, values, strict=True):
        if all(cells) == bool(row[error]):
            return "a row with a prediction and an error, or with neither"
        numbers = np.array([float(cell) for cell in cells if cell])
        if all(cells) and not (abs(numbers.sum() - 1) < 1e-3 and (numbers >= 0).all()):
            return f"probabilities {cells}"
    if case.rows is not None and len(rows) != case.rows:
        return f"{len(rows)} rows for {case.rows} files"
    if case.expected is not None:
        with case.expected.open(newline="", encoding="utf-8") as file:
            expected = [[row[column] for column in columns] for row in list(csv.reader(file))[1:]]
        if not np.allclose(np.array(values, float), np.array(expected, float), atol=1e-4):
            return "other probabilities than in the undamaged run"
    return ""
