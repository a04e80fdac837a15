"""How the cost of an image grows with records, batch, image size, devices and processes.

python benchmarks/scaling.py                       about 4 minutes on two cores
python benchmarks/scaling.py --axes=records --records=1000,1000000

records: synthetic ones of 8 px, streamed and from host memory: time and processor time an image
through the feed alone, growth of the process' own memory while it streams, and what a start costs
(split, search for near duplicates, bytes of the manifest a record). batch, image_size: the feed and
a training step of a narrow cnn. devices: the same over so many fake devices of one process, the
batch shared. processes: whole runs of the train command over Gloo, one device each.
Devices and processes here share the same cores: they show what sharing costs, not what it wins.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness
from measured import processor, versions

FLAGS = flags.FLAGS
AXES = ["records", "batch", "image_size", "devices", "processes"]
flags.DEFINE_list("axes", AXES, f"of {', '.join(AXES)}")
flags.DEFINE_list("records", ["1000", "10000", "100000", "1000000"], "numbers of records")
flags.DEFINE_list("batch", ["8", "32", "128"], "images a batch")
flags.DEFINE_list("image_size", ["32", "64", "128"], "pixels a side")
flags.DEFINE_list("devices", ["1", "2", "4"], "fake devices of one process")
flags.DEFINE_list("processes", ["1", "2"], "processes of one run")
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_float("seconds", 2.0, "length of a round")
flags.DEFINE_string("folder", "", "keeps the synthetic records; empty = a temporary folder")
flags.DEFINE_bool("save", True, "append to benchmarks/results/scaling.csv")

FLAT = 1.25  # an image may cost so many times more among the most records than among the fewest


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = FLAGS.folder or temporary
        for axis in FLAGS.axes:
            values = [int(value) for value in FLAGS[axis].value]
            if axis == "processes":
                results = whole_runs(Path(temporary), values)
            else:
                results = contenders(folder, axis, values)
            report(axis, results)


def contenders(folder: str, axis: str, values: list[int]) -> harness.Results:
    """A process for each value, rounds interleaved."""
    field = []
    for value in values:
        for mode in ("none", "host") if axis == "records" else ("device",):
            spec = {"records": 1000, "batch": 32, "image_size": 8 if axis == "records" else 48}
            spec |= {"norm_batch": 8} if axis == "devices" else {}
            spec |= {} if axis == "devices" else {axis: value}
            spec |= {"mode": mode, "folder": folder, "seconds": FLAGS.seconds}
            own = {"JAX_NUM_CPU_DEVICES": str(value)} if axis == "devices" else {}
            name = f"{axis} {value}" + (f" {mode}" if axis == "records" else "")
            field.append(harness.Contender(name, "contender_scaling.py", spec, environment=own))
    with harness.running(field) as alive:
        return harness.interleave(alive, FLAGS.rounds)


def whole_runs(folder: Path, values: list[int]) -> harness.Results:
    """The train command with so many processes; what its own log says of its pace."""
    results: harness.Results = {f"processes {value}": [] for value in values}
    for number in range(FLAGS.rounds):
        for value, answers in zip(values, results.values(), strict=True):
            answers.append(one_run(folder, folder / f"{value}-{number}", value))
    return results


def one_run(folder: Path, workdir: Path, processes: int) -> dict:
    fields = {"data.image_size": 48, "model.width": 8, "train.epochs": 2}
    command = [sys.executable, "-m", "leukjax.main", "--config=cnn", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    environment = {"LEUKJAX_CACHE": str(folder / "cache"), "PYTHONPATH": str(harness.REPOSITORY)}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    running = []
    for index in range(processes):
        own = dict(os.environ, **environment)
        if processes > 1:
            own |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": str(index)}
            own |= {"JAX_NUM_PROCESSES": str(processes)}
        running.append(
            subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    for process in running:
        said = process.communicate()[1]
        if process.returncode:
            sys.exit(f"error: {processes} processes: {said.decode().strip().splitlines()[-1]}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rate = [line["images_per_second"] for line in lines if line["part"] == "train"][-1]
    about = {"device": processor(), "versions": versions("jax", "grain")}
    return {"microseconds_an_image": 1e6 / rate, "images_per_second": rate, **about}


def report(axis: str, results: harness.Results) -> None:
    """A line a value, the verdict, and the rows."""
    if not results:
        sys.exit(f"error: {axis}: nothing could be measured")
    for name, answers in results.items():
        last = answers[-1]
        words = [f"{harness.spread([a['microseconds_an_image'] for a in answers])} us an image"]
        if axis == "records":
            growth = max(answer["growth_megabytes"] for answer in answers)
            words += [
                f"{harness.spread([a['core_microseconds_an_image'] for a in answers])} of a core",
                f"grew by at most {growth:.1f} MB while it ran, {last['megabytes']:.0f} MB in all",
                f"manifest {last['manifest_bytes_a_record']:.0f} bytes a record",
                f"split {last['split_seconds']:.1f} s",
                f"near duplicates {last['duplicates_seconds']:.1f} s",
            ]
        print(f"{name}: {'; '.join(words)}")
    if axis == "records":
        for mode in ("none", "host"):
            own = [answers for name, answers in results.items() if name.endswith(mode)]
            fewest, most = (
                [a["microseconds_an_image"] for a in answers] for answers in (own[0], own[-1])
            )
            times = harness.ratio(most, fewest)
            flat = "flat" if times.median <= FLAT else "not flat"
            print(f"scaling, {mode}: an image costs {times} x among the most records ({flat})")
    if FLAGS.save:
        first = next(iter(results))
        about = {"axis": axis, "precision": "float32"}
        table = harness.rows(results, "microseconds_an_image", first, about)
        harness.append("scaling", table)


if __name__ == "__main__":
    app.run(main)
