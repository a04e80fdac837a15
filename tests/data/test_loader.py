import errno
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_source import tiny_records, tiny_source

from leukjax.data.loader import Batches
from leukjax.errors import UserError

ROWS = np.random.default_rng(5).permutation(60)[:45]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return tiny_records(tmp_path_factory.mktemp("cache"), tiny_source(60))


@pytest.fixture(scope="module")
def cache(records):
    return records.folder.parent.parent


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert one[name].dtype == other[name].dtype


def test_a_batch_holds_the_records_of_its_indices(records):
    batches = Batches(records, ROWS, 8, training=True, seed=3)
    assert batches.steps_per_epoch == 5
    batch = batches.batch(7)
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "image": ("uint8", (8, 16, 16, 3)),
        "label": ("int32", (8,)),
        "mask": ("bool", (8,)),
        "index": ("int32", (8,)),
    }
    np.testing.assert_array_equal(batch["index"], batches.indices(7))
    np.testing.assert_array_equal(batch["image"], records.images(batch["index"]))
    np.testing.assert_array_equal(batch["label"], records.manifest.label[batch["index"]])
    assert batch["mask"].all()


@pytest.mark.parametrize("sampling", ["as_is", "class_balanced", "subject_balanced"])
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_the_same_batches(records, sampling, processes):
    def make(index: int, count: int) -> Batches:
        return Batches(
            records,
            ROWS,
            8,
            training=True,
            seed=1,
            sampling=sampling,
            process_index=index,
            process_count=count,
        )

    whole = make(0, 1)
    parts = [make(index, processes) for index in range(processes)]
    for step in range(12):
        slices = [part.batch(step) for part in parts]
        assert all(len(piece["label"]) == 8 // processes for piece in slices)
        joined = {name: np.concatenate([s[name] for s in slices]) for name in slices[0]}
        same(joined, whole.batch(step))
        np.testing.assert_array_equal(parts[-1].indices(step), whole.indices(step))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 40), processes=st.sampled_from([1, 2, 3]))
def test_evaluation_counts_each_image_once(records, n, size, processes):
    rows, size = np.random.default_rng(n).permutation(60)[:n], size * processes
    parts = [
        Batches(records, rows, size, training=False, process_index=i, process_count=processes)
        for i in range(processes)
    ]
    assert parts[0].steps_per_epoch == -(-n // size)
    counted = []
    for step in range(parts[0].steps_per_epoch):
        for part in parts:
            batch = part.batch(step)
            assert len(batch["mask"]) == size // processes
            counted.extend(batch["index"][batch["mask"]].tolist())
            assert (batch["index"][~batch["mask"]] == rows[-1]).all()
    assert counted == rows.tolist()


@pytest.mark.parametrize("start", [0, 1, 4, 5, 23])
def test_reading_ahead_gives_the_same_from_any_step(records, start):
    batches = Batches(records, ROWS, 8, training=True, seed=9, sampling="class_balanced")
    read = list(batches.iterate(start, start + 9))
    assert len(read) == 9
    for step, batch in enumerate(read, start):
        same(batch, batches.batch(step))


def test_evaluation_reads_ahead_too(records):
    batches = Batches(records, ROWS, 7, training=False, prefetch=2, threads=1)
    read = list(batches.iterate(0, batches.steps_per_epoch))
    assert np.concatenate([batch["mask"] for batch in read]).sum() == 45


def test_starting_late_costs_nothing(records):
    batches = Batches(records, ROWS, 8, training=True)
    start = time.monotonic()
    next(batches.iterate(10**9, 10**9 + 5))
    assert time.monotonic() - start < 5  # counting there would take hours


def test_an_error_of_a_reader_reaches_the_loop(records):
    class Broken:
        manifest = records.manifest

        def images(self, rows):
            raise UserError("the disk is gone")

    with pytest.raises(UserError, match="the disk is gone"):
        next(Batches(Broken(), ROWS, 8, training=True).iterate(0, 5))


def test_worker_processes_give_what_threads_give(records):
    threads = Batches(records, ROWS, 8, training=True, seed=2, sampling="class_balanced")
    workers = Batches(records, ROWS, 8, training=True, seed=2, sampling="class_balanced", workers=2)
    expected, got = threads.iterate(3, 10), workers.iterate(3, 10)
    for _ in range(7):
        same(next(got), next(expected))
    with pytest.raises(StopIteration):
        next(got)


SMALL_SHM = """
    import sys
    sys.path.insert(0, sys.argv[1])

    def main():
        import numpy as np
        from tiny_source import tiny_records, tiny_source
        from leukjax.data.loader import Batches
        from leukjax.errors import UserError

        records = tiny_records(sys.argv[2], tiny_source(60), image_size=160)
        batches = Batches(records, np.arange(60), 20, training=True, workers=2)
        try:
            for batch in batches.iterate(0, 10):
                pass
        except UserError as error:
            print(error)

    if __name__ == "__main__":
        main()
"""


def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.slow
def test_a_small_dev_shm_is_named(tmp_path):
    if not can_mount():
        pytest.skip("no namespace with another /dev/shm may be made here")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(SMALL_SHM))
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    arguments = [sys.executable, program, Path(__file__).parent, tmp_path / "cache"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert re.match(
        r"data\.workers: /dev/shm \(\d of 1 MB free\) is too small for batches of 1\.5 MB from 2 "
        r"processes, about 12 MB in all\. Enlarge .* --config\.data\.workers=0",
        line,
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Worker process was terminated unexpectedly with exit code -7."), "/dev/shm"),
        (OSError(errno.ENOSPC, "No space left on device"), r"/dev/shm \("),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/psm_1"), "/dev/shm"),
        (
            RuntimeError("Worker process was terminated unexpectedly with exit code -9."),
            r"status -9 \(killed; out of memory\?\)\. Use fewer",
        ),
        (RuntimeError("Worker process was terminated unexpectedly with exit code 1."), "status 1."),
        (RuntimeError("a mistake of ours"), None),
        (OSError(errno.EIO, "Input/output error", "/data/x"), None),
    ],
)
def test_a_worker_that_dies_is_one_line(records, monkeypatch, error, message):
    class Dying:
        def mp_prefetch(self, *_, **__):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            raise error

        def close(self):
            pass

    monkeypatch.setattr(grain.MapDataset, "to_iter_dataset", lambda *_: Dying())
    batches = Batches(records, ROWS, 8, training=True, workers=2)
    with pytest.raises(UserError if message else type(error), match=message) as caught:
        next(batches.iterate(0, 5))
    assert not message or str(caught.value).startswith("data.workers: ")


def test_closing_early_stops_the_readers(records):
    before = set(threading.enumerate())
    iterator = Batches(records, ROWS, 4, training=True).iterate(0, 10**6)
    next(iterator)
    assert set(threading.enumerate()) - before
    iterator.close()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


PROGRAM = """
    import os, sys
    sys.path.insert(0, sys.argv[1])

    def main():
        import numpy as np
        from tiny_source import tiny_records, tiny_source
        from leukjax.data.loader import Batches

        records = tiny_records(sys.argv[2], tiny_source(60))
        workers = int(sys.argv[3])
        batches = Batches(records, np.arange(60), 4, training=True, workers=workers)
        iterator = batches.iterate(0, 10**6)
        for _ in range(3):
            next(iterator)
        import multiprocessing
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        if sys.argv[4] == "_exit":
            os._exit(3)

    if __name__ == "__main__":
        main()
"""


def run_program(tmp_path: Path, cache: Path, workers: int, end: str) -> tuple[int, list[int]]:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    arguments = [str(Path(__file__).parent), str(cache), str(workers), end]
    # To a file: the end of a pipe would be held open by the workers, and wait for them.
    with open(tmp_path / "output", "w+") as output:
        command = [sys.executable, str(program), *arguments]
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.DEVNULL, timeout=100, check=False
        )
        output.seek(0)
        return done.returncode, [int(pid) for pid in output.read().split()]


def test_an_iterator_left_open_does_not_hold_up_the_end(tmp_path, cache):
    assert run_program(tmp_path, cache, 0, "return") == (0, [])


def test_workers_do_not_outlive_a_parent_that_just_ends(tmp_path, cache):
    status, workers = run_program(tmp_path, cache, 2, "_exit")
    assert status == 3
    assert len(workers) == 2
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie that init has not collected yet is dead all the same.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_wrong_sizes_are_named(records):
    with pytest.raises(UserError, match=r"train\.batch_size: a batch of 46 .* 45 training images"):
        Batches(records, ROWS, 46, training=True)
    with pytest.raises(UserError, match=r"train\.batch_size: 9 .* multiple of 2"):
        Batches(records, ROWS, 9, training=True, process_count=2)
    with pytest.raises(UserError, match=r"train\.eval_batch_size: 9"):
        Batches(records, ROWS, 9, training=False, process_count=2)
    with pytest.raises(UserError, match="no image"):
        Batches(records, ROWS[:0], 9, training=False)
    with pytest.raises(UserError, match=r"data\.sampling"):
        Batches(records, ROWS, 9, training=True, sampling="x")
    evaluation = Batches(records, ROWS, 20, training=False)
    for step in (-1, 3):
        with pytest.raises(IndexError):
            evaluation.indices(step)
