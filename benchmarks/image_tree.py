"""A large folder of JPEGs, from the files to a trained epoch: rates, memory, and a kill.

python benchmarks/image_tree.py --images=171375        the size of the bone-marrow set (Matek 2021)

Fabricates --images JPEGs of 250 px in 21 classes, as <CLASS>/<CLASS>_00001.jpg with the class sizes
of that set; trains the CNN at 32 px for one epoch on them; kills a second preparation once some
shards are written, and starts it again. Prints and adds a row to --results:
- images per second of the scan, of the preparation and of the epoch, as the command logs them, and
  the largest resident memory of the command, sampled;
- images per second that the same cores read and decode, and nothing else, before and after;
- how many images the killed preparation had written in whole shards, and how many of them the
  restart kept.
The files are kept in --folder, and are used again.
"""

import concurrent.futures
import csv
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

from leukjax.data.record_files import SHARD_IMAGES

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 20_000, "how many", lower_bound=500)
flags.DEFINE_string("folder", "/tmp/image_tree", "folder of the images and the cache")
flags.DEFINE_string(
    "results",
    str(Path(__file__).parent / "results" / "image_tree.csv"),
    "table that gets a row",
)

# Published counts (Matek et al. 2021, doi 10.1182/blood.2020010568).
CLASSES = {
    "ABE": 8, "ART": 19630, "BAS": 441, "BLA": 11973, "EBO": 27395, "EOS": 5883, "FGC": 47,
    "HAC": 409, "KSC": 42, "LYI": 65, "LYT": 26242, "MMZ": 3055, "MON": 4040, "MYB": 6557,
    "NGB": 9968, "NGS": 29424, "NIF": 3538, "OTH": 294, "PEB": 2740, "PLM": 7629, "PMO": 11994,
}  # fmt: skip
SIDE = 250


def main(_: list[str]) -> None:
    """Fabricates, measures, kills, prints."""
    folder = Path(FLAGS.folder)
    root = folder / f"images-{FLAGS.images}"
    if not (folder / f"{root.name}.done").exists():
        fabricate(root, FLAGS.images)
        (folder / f"{root.name}.done").touch()
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    files = sorted(root.rglob("*.jpg"))
    before = decode_alone(files)
    log, megabytes = command(root, folder, epochs=1)
    after = decode_alone(files)
    decoded = (before + after) / 2
    scanned, prepared = rate(log, "scanning"), rate(log, "preparing")
    written, kept = restart(root, folder)
    row: dict[str, Any] = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "device": harness.processor(),
        "images": len(files),
        "decode_alone": round(decoded),
        "scan": round(scanned),
        "prepare": round(prepared),
        "scan_ratio": round(scanned / decoded, 3),
        "prepare_ratio": round(prepared / decoded, 3),
        "largest_megabytes": round(megabytes),
        "written_before_kill": written,
        "kept_after_kill": kept,
    }
    for name, value in row.items():
        print(f"{name}: {value}")
    with Path(FLAGS.results).open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def fabricate(root: Path, images: int) -> None:
    """Writes JPEGs that all differ; class sizes in the published proportions, at least 8."""
    import cv2

    total = sum(CLASSES.values())
    backgrounds = np.random.default_rng(0).integers(0, 40, (64, SIDE, SIDE, 3), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    jobs = [
        (name, number)
        for name, count in CLASSES.items()
        for number in range(max(8, round(count * images / total)))
    ]

    def write(job: tuple[str, int]) -> None:
        name, number = job
        rng = np.random.default_rng([number, list(CLASSES).index(name)])
        centre, radius = rng.uniform(90, 160, 2), rng.uniform(40, 90)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        image = 200 - backgrounds[number % len(backgrounds)]
        image[inside] = rng.integers(30, 170, 3, np.uint8) + image[inside] // 8
        path = root / name / f"{name}_{number:05d}.jpg"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 85])

    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(write, jobs, chunksize=64):
            pass


def decode_alone(files: list[Path], count: int = 4000) -> float:
    """Returns images per second that all cores read and decode, with nothing else to do."""
    from leukjax.data.decode import decode

    chosen = files[:: max(1, len(files) // count)]

    def load(path: Path) -> None:
        decode(path.read_bytes(), path.name)

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(load, chosen):
            pass
    return len(chosen) / (time.perf_counter() - began)


def start(root: Path, folder: Path, epochs: float) -> subprocess.Popen[str]:
    """Starts the training command."""
    fields = {
        "data.root": root,
        "data.cache_dir": folder / "cache",
        "data.image_size": 32,
        "model.width": 8,
        "train.epochs": epochs,
        "train.batch_size": 256,
        "split.protocol": "image",  # the set has no subjects
    }
    arguments = [f"--config.{field}={value}" for field, value in fields.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "leukjax.main", "--config=configs/cnn.py:image_folder",
         f"--workdir={folder / 'run'}", *arguments],
        env=os.environ | {"PYTHONPATH": harness.python_path()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def command(root: Path, folder: Path, epochs: float) -> tuple[str, float]:
    """Runs the training command; returns its log and its largest resident memory in MB."""
    process = start(root, folder, epochs)
    largest = 0.0

    def watch() -> None:
        nonlocal largest
        while process.poll() is None:
            try:
                largest = max(largest, psutil.Process(process.pid).memory_info().rss / 1e6)
            except psutil.Error:
                return
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    log = process.communicate()[1]
    watcher.join()
    if process.returncode:
        sys.exit(f"error: the command ended with {process.returncode}: {log[-500:]}")
    return log, largest


def restart(root: Path, folder: Path) -> tuple[int, int]:
    """Kills a preparation after its first whole shards.

    Returns:
      Images in whole shards when it was killed, and those that the next start kept.
    """
    shutil.rmtree(folder / "cache" / "image_folder")
    shutil.rmtree(folder / "run")
    process = start(root, folder, 0.01)
    drained = threading.Thread(target=process.communicate)
    drained.start()
    shards: list[Path] = []
    while len(shards) < 1 + (FLAGS.images > 30_000):
        if process.poll() is not None:
            sys.exit("error: the preparation ended before it was killed")
        shards = list((folder / "cache" / "image_folder").glob(".*.tmp/part_*[0-9]"))
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    drained.join()
    written = SHARD_IMAGES * len(
        list((folder / "cache" / "image_folder").glob(".*.tmp/part_*[0-9]/index.json"))
    )
    log, _ = command(root, folder, 0.01)
    kept = int(re.search(r"(\d+) images were prepared by an earlier start", log)[1])  # type: ignore[index]
    done_again = int(re.search(r"preparing \w+: (\d+) images", log)[1])  # type: ignore[index]
    total = sum(1 for _ in root.rglob("*.jpg"))
    assert kept + done_again == total, (kept, done_again, total)
    return min(written, total), kept


def rate(log: str, task: str) -> float:
    """Reads images per second from the line that the command logs when a task ends."""
    found = re.findall(rf"{task} \w+: \d+ images in [\d.]+ s, ([\d.]+)/s", log)
    return float(found[-1])


if __name__ == "__main__":
    app.run(main)
