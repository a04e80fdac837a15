"""Cost per image by number of records, batch, image size, devices and processes.

python benchmarks/scaling.py                       about 4 minutes on two cores
python benchmarks/scaling.py --axes=records --records=1000,1000000

records: synthetic ones of 8 px, streamed and from host memory: time and processor time per image of
the input pipeline alone, growth of the process's memory while it streams, and costs of a start
(split, search for near duplicates, bytes of the manifest per record). tables: time per row and
memory to read a CSV table, a Parquet file and a manifest. batch, image_size: input pipeline and
training step of a narrow cnn. devices: the same over simulated devices of one process that share
the batch. processes: whole runs of the training command over Gloo, one device each. Devices and
processes share the same cores: they show the overhead of sharing, not a gain.
Adds rows to benchmarks/results/scaling.csv.
"""

import concurrent.futures
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness
from harness import spread

FLAGS = flags.FLAGS
AXES = ["records", "tables", "batch", "image_size", "devices", "processes"]
flags.DEFINE_list("axes", AXES, f"of {', '.join(AXES)}")
flags.DEFINE_list("records", ["1000", "10000", "100000", "1000000"], "numbers of records")
flags.DEFINE_list("tables", ["10000", "1000000", "2000000"], "numbers of rows")
flags.DEFINE_list("batch", ["8", "32", "128"], "images per batch")
flags.DEFINE_list("image_size", ["32", "64", "128"], "pixels per side")
flags.DEFINE_list("devices", ["1", "2", "4"], "simulated devices of one process")
flags.DEFINE_list("processes", ["1", "2"], "processes of one run")
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_float("seconds", 2.0, "length of a round")
flags.DEFINE_string("folder", "", "keeps the synthetic records; empty = a temporary folder")
flags.DEFINE_bool("save", True, "append to benchmarks/results/scaling.csv")

MODES = {"records": ("none", "host"), "tables": ("csv", "parquet", "manifest")}
FLAT = 1.25  # largest cost of an image among the most records, relative to the fewest


def main(_: list[str]) -> None:
    """Measures every axis."""
    with tempfile.TemporaryDirectory() as temporary:
        for axis in FLAGS.axes:
            values = [int(value) for value in FLAGS[axis].value]
            if axis == "processes":
                results = whole_runs(Path(temporary), values)
            else:
                results = measure(FLAGS.folder or temporary, axis, values)
            report(axis, results)


def measure(folder: str, axis: str, values: list[int]) -> harness.Results:
    """Measures one process per value, rounds interleaved."""
    contenders = []
    for value in values:
        for mode in MODES.get(axis, ("device",)):
            spec = {"records": 1000, "batch": 32, "image_size": 8 if axis == "records" else 48}
            spec |= {"norm_batch": 8} if axis == "devices" else {axis: value}
            spec |= {"mode": mode, "folder": folder, "seconds": FLAGS.seconds}
            variables = {"JAX_NUM_CPU_DEVICES": str(value)} if axis == "devices" else {}
            spec |= {"axis": axis}
            name = f"{axis} {value}" + (f" {mode}" if axis in MODES else "")
            contenders.append(harness.Contender(name, __file__, spec, environment=variables))
    return harness.measure(contenders, FLAGS.rounds)


def whole_runs(folder: Path, values: list[int]) -> harness.Results:
    """Runs the training command with each number of processes; reads its own throughput."""
    results: harness.Results = {f"processes {value}": [] for value in values}
    for number in range(FLAGS.rounds):
        for value, answers in zip(values, results.values(), strict=True):
            answers.append(one_run(folder, folder / f"{value}-{number}", value))
    return results


def one_run(folder: Path, workdir: Path, processes: int) -> dict[str, Any]:
    """Runs the training command; returns microseconds per image and images per second."""
    fields = {"data.image_size": 48, "model.width": 8, "train.epochs": 2}
    command = [sys.executable, "-m", "leukjax.main", "--config=cnn", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    variables = {"LEUKJAX_CACHE": str(folder / "cache"), "PYTHONPATH": harness.python_path()}
    if processes > 1:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{server.getsockname()[1]}"
        variables |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    running = [
        subprocess.Popen(
            command,
            env=os.environ | variables | ({"JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(processes)
    ]
    for process in running:
        errors = process.communicate()[1]
        if process.returncode:
            sys.exit(f"error: {processes} processes: {errors.decode().strip().splitlines()[-1]}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rate = [line["images_per_second"] for line in lines if line["part"] == "train"][-1]
    about = {"device": harness.processor(), "versions": harness.versions("jax", "grain")}
    return {"microseconds_an_image": 1e6 / rate, "images_per_second": rate, **about}


def report(axis: str, results: harness.Results) -> None:
    """Prints one line per value and the verdict, appends the rows."""
    if not results:
        sys.exit(f"error: {axis}: nothing could be measured")
    for name, answers in results.items():
        last = answers[-1]
        unit = "row" if axis == "tables" else "image"
        parts = [f"{spread([a['microseconds_an_image'] for a in answers])} us per {unit}"]
        if axis == "tables":
            parts += [f"{last['seconds']:.2f} s in all", f"{last['megabytes']:.0f} MB at most"]
        if axis == "records":
            growth = max(answer["growth_megabytes"] for answer in answers)
            parts += [
                f"{spread([a['core_microseconds_an_image'] for a in answers])} us of a core",
                f"grew by at most {growth:.1f} MB while it ran, {last['megabytes']:.0f} MB in all",
                f"manifest {last['manifest_bytes_a_record']:.0f} bytes per record",
                f"split {last['split_seconds']:.1f} s",
                f"near duplicates {last['duplicates_seconds']:.1f} s",
            ]
        print(f"{name}: {'; '.join(parts)}")
    for mode in MODES.get(axis, ()):
        of_mode = [answers for name, answers in results.items() if name.endswith(mode)]
        fewest, most = (
            [a["microseconds_an_image"] for a in answers] for answers in (of_mode[0], of_mode[-1])
        )
        times = harness.ratio(most, fewest)
        flat = "flat" if times.median <= FLAT else "not flat"
        print(f"scaling, {mode}: {times} x per {unit} from the fewest to the most ({flat})")
    if FLAGS.save:
        about = {"axis": axis, "precision": "float32"}
        table = harness.rows(results, "microseconds_an_image", next(iter(results)), about)
        harness.append("scaling", table)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """What the spec names, ready to be measured."""
    return prepare_table(spec) if spec["axis"] == "tables" else prepare_pipeline(spec)


def prepare_table(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """A table without images, of the spec's rows and format, and the reading of it."""
    from leukjax.data import parquet_file
    from leukjax.data.columns import Column
    from leukjax.data.manifest import Manifest
    from leukjax.data.table_file import read_table

    count, mode = spec["tables"], spec["mode"]
    path = Path(spec["folder"]) / f"{count}.{mode}"
    # In a process of its own: its memory must not count.
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        pool.submit(write_table, path, count, mode).result()

    def read() -> int:
        if mode == "manifest":
            return len(Manifest.load(path))
        if mode == "csv":
            return len(read_table(path).lines)
        table = {name: Column() for name in parquet_file.read_layout(str(path)).text}
        parquet_file.read_text(str(path), table)
        return len(table["path"].values)

    def run() -> dict[str, float]:
        began = time.perf_counter()
        assert read() == count
        seconds = time.perf_counter() - began
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return {"microseconds_an_image": 1e6 * seconds / count, "seconds": seconds,
                "megabytes": largest}  # fmt: skip

    return {"device": harness.processor(), "versions": harness.versions("pyarrow", "numpy")}, run


def write_table(path: Path, count: int, mode: str) -> None:
    """Writes a table of two classes with 50 images per patient."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    from leukjax.data.manifest import Manifest

    rows = np.arange(count)
    names, people = np.char.mod("cell_%08d.png", rows), np.char.mod("patient_%06d", rows // 50)
    classes = ("all", "hem")
    if mode == "manifest":
        digests, empty = np.char.mod("%064x", rows), np.full(count, "")
        texts = (names, names, rows % 2, people, people, empty, digests, digests)
        Manifest(classes, *texts, rows, rows / count).save(path)
        return
    columns = {"path": names, "label": np.array(classes)[rows % 2], "subject": people}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    (csv.write_csv if mode == "csv" else parquet.write_table)(table, path)


def prepare_pipeline(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """Records of the spec's number and size, and a training step with its input pipeline."""
    import jax
    from synthetic import Synthetic

    from leukjax import config, runtime, sharding
    from leukjax.data import duplicates, split
    from leukjax.training.trainer import Trainer

    began, empty = time.perf_counter(), harness.anonymous_memory()
    records = Synthetic(spec["folder"], spec["records"], spec["image_size"])
    manifest_bytes = harness.anonymous_memory() - empty
    fields = {
        "train.batch_size": spec["batch"],
        "data.image_size": spec["image_size"],
        "data.mean": "0.5,0.5,0.5",
        "data.std": "0.25,0.25,0.25",
        "model.width": 8,
        "model.norm_batch": spec.get("norm_batch", 0),
    }
    settings = config.load("cnn", fields)
    runtime.start(settings)  # before the mesh, which looks for devices
    rows = split.make_split(records.manifest, "subject", 0, 5, 0).rows("train")
    split_at = time.perf_counter()
    duplicates.near_duplicates(records.manifest)
    duplicates_at = time.perf_counter()

    mesh = sharding.make_mesh(settings.mesh, spec["batch"])
    prefetch, image_sharding = records.prefetch(mesh, rows, spec["batch"], spec["mode"])
    step = state = None
    if spec["image_size"] >= 32:  # the cnn needs 32 px; below, the input pipeline alone is measured
        trainer = Trainer.from_config(settings, num_classes=2, mesh=mesh)
        step = trainer.compiled(image_sharding=image_sharding).train_steps[1]
        state = trainer.init_state(steps_per_epoch=len(rows) // spec["batch"])
    batches = iter(prefetch)

    def run(length: float = spec["seconds"]) -> dict[str, float]:
        nonlocal state
        before, computed, count = harness.anonymous_memory(), harness.cpu_seconds(), 0
        began = time.perf_counter()
        while time.perf_counter() - began < length:
            batch = next(batches)
            if step is not None:
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
            count += spec["batch"]
        seconds = time.perf_counter() - began
        return {
            "microseconds_an_image": 1e6 * seconds / count,
            "core_microseconds_an_image": 1e6 * (harness.cpu_seconds() - computed) / count,
            "images_per_second": count / seconds,
            "growth_megabytes": (harness.anonymous_memory() - before) / 1e6,
        }

    run(1.0)
    about = {
        "device": harness.processor(),
        "versions": harness.versions("jax", "grain"),
        "manifest_bytes_a_record": manifest_bytes / spec["records"],
        "split_seconds": split_at - began,
        "duplicates_seconds": duplicates_at - split_at,
        "megabytes": harness.anonymous_memory() / 1e6,
    }
    return about, run


if __name__ == "__main__":
    harness.start(main, prepare)
