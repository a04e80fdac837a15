"""Runs `leukjax.predict` on malformed image files; each must get the correct row.

python benchmarks/fuzz_predict.py --workdir=RUN --count=10000 --seed=0

Files come in lots, a folder or a zip each. Most are damaged: bytes changed, cut, repeated or
replaced, mostly in headers; extreme sizes; files that need much time or memory; pipes, dead links
and folders named like images. Every fourth is intact, with known probabilities. A lot fails if the
command raises, takes longer than --timeout, or writes a wrong row:

- not one row per file, in order;
- both an error and a prediction, or neither;
- for an intact file, other probabilities than those of its image;
- for a damaged file, a prediction although `decode` refuses its bytes, or other probabilities than
  those of the image that `decode` returns (some damage leaves a readable image).

A crash or a hang ends the script; the lot is printed and stays on disk.
Exit status: 0 none failed.
"""

import collections
import csv
import faulthandler
import io
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from broken_case import damage, draw_cell
from broken_files import encode
from broken_images import known as hostile
from broken_values import make_special
from PIL import Image

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "of the run that predicts", required=True)
flags.DEFINE_integer("count", 10_000, "files", lower_bound=1)
flags.DEFINE_integer("lot", 250, "files per run of the command", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of the random files", lower_bound=0)
flags.DEFINE_integer("timeout", 120, "seconds after which a lot counts as a hang", lower_bound=1)
flags.DEFINE_string("keep", "fuzz-failures", "folder that gets the lots that failed")

TOLERANCE = 1e-5


def main(_: list[str]) -> int:
    """Makes lots, predicts, compares, prints a summary."""
    import leukjax
    from leukjax.predict import predict_files

    logging.set_verbosity(logging.FATAL)
    began = time.perf_counter()
    model = leukjax.load(FLAGS.workdir)
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    for lot, start in enumerate(range(0, FLAGS.count, FLAGS.lot)):
        random = np.random.default_rng([FLAGS.seed, lot])
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-predict-{FLAGS.seed}-{lot}-"))
        inputs, known = make(folder / "in", random, min(FLAGS.lot, FLAGS.count - start))
        print(f"lot {lot}: {folder}", end="\r", flush=True)
        faulthandler.dump_traceback_later(FLAGS.timeout, exit=True)
        predict_files.write(
            [FLAGS.workdir], [str(inputs)], folder / "out.csv", predict_files.Options()
        )
        faulthandler.cancel_dump_traceback_later()
        with (folder / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        wrong = compare(rows, known, model, outcomes)
        if wrong:
            failures += wrong
            print(f"\nlot {lot}: {wrong[0]}")
            kept = Path(FLAGS.keep) / folder.name
            shutil.copytree(folder, kept, symlinks=True, ignore=no_pipes)
        shutil.rmtree(folder)
    for name, count in sorted(outcomes.items()):
        print(f"{count:7,}  {name}")
    seconds = time.perf_counter() - began
    print(f"seed {FLAGS.seed}: {sum(outcomes.values()):,} files, {len(failures)} wrong rows, "
          f"{seconds:.0f} s")  # fmt: skip
    return 1 if failures else 0


def no_pipes(folder: str, names: list[str]) -> list[str]:
    """Names the pipes of a folder, which cannot be copied."""
    return [name for name in names if (Path(folder) / name).is_fifo()]


def make(
    folder: Path, random: np.random.Generator, count: int
) -> tuple[Path, list[tuple[str, str, object]]]:
    """Writes a lot.

    Returns:
      The inputs of the command, and for each file in order of the names: its name, its kind, and
      its image (intact), its bytes (damaged) or None (not a file).
    """
    folder.mkdir()
    zipped = random.random() < 0.3
    known: list[tuple[str, str, object]] = []
    for number in range(count):
        name = f"{number:05}.{random.choice(('png', 'jpg', 'bmp', 'tif'))}"
        path = folder / name
        how = "intact" if number % 4 == 0 else random.choice(
            ("damaged", "twice damaged", "absurd size", "hostile", "no file"),
            p=(0.69, 0.2, 0.06, 0.01, 0.04),
        )  # fmt: skip
        if how == "no file" and zipped:
            how = "damaged"
        if how == "intact":
            pixels, file = draw_cell(random), io.BytesIO()
            Image.fromarray(pixels).save(file, str(random.choice(("PNG", "BMP", "TIFF"))))
            path.write_bytes(file.getvalue())
            known.append((name, how, pixels))
        elif how == "no file":
            known.append((name, how, None))
            make_special(path, random, folder, ("FIFO", "nowhere", "itself", "/dev/zero"))
        else:
            if how == "hostile":
                data = hostile(random)
            else:
                data = absurd(random) if how == "absurd size" else damage(encode(random), random)
            if how == "twice damaged":
                data = damage(data, random)
            path.write_bytes(data)
            known.append((name, how, data))
    if not zipped:
        return folder, known
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, _, _ in known:
            archive.write(folder / name, name)
    return target, known


def absurd(random: np.random.Generator) -> bytes:
    """Returns an image that is too small, too large, or a strip."""
    sides = random.choice((1, 2, 7, 8, 9, 500, 12_000, 60_000), 2).tolist()
    file = io.BytesIO()
    Image.new("1", tuple(sides)).save(file, "PNG")
    return file.getvalue()


def compare(rows: list[dict], known: list, model, outcomes: collections.Counter) -> list[str]:
    """Returns the problems of the rows of a lot."""
    from leukjax.data.decode import decode
    from leukjax.errors import UserError

    if [row["path"].replace("!", "/").rsplit("/", 1)[-1] for row in rows] != [k[0] for k in known]:
        return ["not one row per file, in order"]
    wrong, images, predicted = [], [], []
    for row, (name, kind, content) in zip(rows, known, strict=True):
        is_predicted = bool(row["p_" + model.classes[0]])
        outcomes[f"{kind}: {'predicted' if is_predicted else 'refused'}"] += 1
        if is_predicted == bool(row["error"]) or is_predicted != bool(row["predicted"]):
            wrong.append(f"{name}: an error and a prediction, or neither")
        expected = content
        if isinstance(content, bytes):
            try:
                expected = decode(content, name)[0]
            except UserError:
                expected = None
        if is_predicted != (expected is not None):
            wrong.append(f"{name}: {'predicted' if is_predicted else 'refused'}: {row['error']}")
        elif is_predicted:
            images.append(expected)
            predicted.append([float(row[f"p_{c}"]) for c in model.classes])
    errors = np.abs(np.array(predicted) - model.predict(images)).max(axis=1)
    wrong += [f"a predicted file: off by {error:.2g}" for error in errors if not error <= TOLERANCE]
    return wrong


if __name__ == "__main__":
    app.run(main)
