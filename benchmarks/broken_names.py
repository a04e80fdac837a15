"""Unusual names of classes, files, subjects, folders and models."""

import io
import os
import shutil
from pathlib import Path

import broken_runs
import numpy as np
from broken_case import CLASSES, Case, draw_cell
from PIL import Image

# As bytes, because file systems accept names that are not text.
_NAMES = (b"a\rb", b"a\nb", b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07", b"\x9b2J", b"\xff\xfe",
          b"\xed\xa0\x80", "\u202egnp".encode(), "\ufeff".encode(), "é".encode(),
          "e\u0301".encode(), "细胞".encode(), "🩸".encode(), "ב".encode(), b"$x_1$", b"$",
          b"a_b^c", b"\\alpha", b"{}", b"%s%n", b"-rf", b"--output=x", b"=1+1", b"@SUM(A1)", b"'",
          b'"', b",", b";", b" ", b"  a  ", b".", b"..a", b"~", b"[0-9]", b"[..]", b"*", b"?",
          b"a\\b", b"<img src=x onerror=alert(1)>", b"&amp;", b"|", b"`id`", b"$(id)",
          b"a" * 240, "é".encode() * 120, b"nan", b"None", b"true", b"0", b"test", b"train", b"con",
          b"a!b", b"data.zip!x", b"\x7f", b"\t")  # fmt: skip
MARKUP = "<img src=x onerror=alert(1)>"  # must never appear unescaped in a page


def odd_name(random: np.random.Generator) -> str:
    """Returns a file name; bytes that are not UTF-8 are lone surrogates, as in Python."""
    name = _NAMES[int(random.integers(len(_NAMES)))]
    if random.random() < 0.2:
        name += _NAMES[int(random.integers(len(_NAMES)))]
    return os.fsdecode(name.replace(b"/", b"")[:240])


def _image(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_cell(random)).save(file, "PNG")
    return file.getvalue()


def names(case: Case, random: np.random.Generator) -> None:
    """Trains on, predicts, explains, audits or compares inputs with unusual names."""
    how = random.random()
    if how < 0.35:
        _train(case, random)
    elif how < 0.7:
        _ask(case, random)
    elif how < 0.8:
        _audit(case, random)
    else:
        _compare(case, random)


def _train(case: Case, random: np.random.Generator) -> None:
    """Uses unusual names of classes, subjects and files."""
    root = case.folder / "data"
    case.fields["data.root"] = root
    for number, kind in enumerate(CLASSES):
        kind = odd_name(random) if random.random() < 0.6 else kind
        for subject in range(5):
            name = odd_name(random)[:100] if random.random() < 0.3 else ""
            for cell in range(2):
                path = root / f"{kind}" / f"p{number}{subject}_{cell}{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if len(os.fsencode(path.name)) < 250:
                    path.write_bytes(_image(random))
    if random.random() < 0.3:
        moved = case.folder / odd_name(random)
        if not moved.exists():
            case.fields["data.root"] = root.rename(moved)
    if random.random() < 0.2:
        case.fields["data.positive"] = odd_name(random)
    if random.random() < 0.2:
        case.fields["data.subject_pattern"] = "(p[0-9]+.*)_"


def _ask(case: Case, random: np.random.Generator) -> None:
    """Uses unusual names of images, run folder and output."""
    run = broken_runs.copy_run(case)
    inputs = case.folder / "inputs"
    for _ in range(random.integers(1, 5)):
        path = inputs / f"{odd_name(random)}.png"
        if len(os.fsencode(path.name)) < 250:
            path.write_bytes(_image(random))
    broken_runs.choose(case, str(random.choice(("predict", "explain"), p=(0.8, 0.2))), random)
    assert case.arguments is not None
    if random.random() < 0.4:
        case.arguments = [f"--workdir={_moved(run, random)}", *case.arguments[1:]]
    if random.random() < 0.3:
        moved = _moved(inputs, random)
        case.arguments = [str(moved) if a == str(inputs) else a for a in case.arguments]
    if random.random() < 0.2 and case.command == "predict":
        pattern = str(random.choice((r"([^/]*)_[0-9]", r"(.*)", r"(?s)(.)", "(p[0-9]+)")))
        case.arguments.append(f"--subject_pattern={pattern}")


def _moved(path: Path, random: np.random.Generator) -> Path:
    target = path.with_name("to" + odd_name(random))
    return path.rename(target) if not target.exists() else path


def _audit(case: Case, random: np.random.Generator) -> None:
    _train(case, random)
    root = case.fields["data.root"]
    case.command, case.arguments = "audit", [str(root), f"--output={case.folder / 'out'}"]
    if random.random() < 0.5:
        case.arguments.append("--config.data.subject_pattern=(p[0-9]+)_")


def _compare(case: Case, random: np.random.Generator) -> None:
    """Uses unusual names of models and tables."""
    run = broken_runs.copy_run(case)
    broken_runs.choose(case, "compare", random)
    assert case.arguments is not None
    name = odd_name(random).replace("=", "")
    case.arguments[0] = f"{name}={run}"
    if random.random() < 0.5:
        table = case.folder / f"{odd_name(random)}.csv"
        if len(os.fsencode(table.name)) < 250 and not table.exists():
            shutil.copy(run / "predictions" / "test.csv", table)
            case.arguments[1] = str(table)
