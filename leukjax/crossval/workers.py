"""The worker processes of this machine: one per device, each of which sees its device alone."""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukjax.errors import UserError

# Statuses of a `JobResult`.
READY = "ready"  # the worker has started and waits for its first job
DONE = "done"
DIVERGED = "diverged"  # deterministic: final for a trial, a failure of a run
FAILED = "failed"
STOPPED = "stopped"  # on request, with everything saved


@dataclasses.dataclass(frozen=True)
class JobResult:
    """How a job ended, as a worker reports it.

    Attributes:
      status: one of the above.
      message: one line; empty if there is nothing to report.
      seconds: duration of the job.
    """

    status: str
    message: str = ""
    seconds: float = 0.0


_PROBE = "import jax; print(jax.default_backend(), jax.local_device_count())"
# The variable that hides the other devices from a process.
_VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
# A process that takes one chip of a TPU host is a slice of its own.
_ONE_CHIP = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


def find_devices() -> list[dict[str, str]]:
    """Returns for each device of this machine the environment in which a process sees it alone.

    Queries JAX in another process, because the query reserves the devices' memory.

    Raises:
      UserError: JAX does not start.
    """
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, encoding="utf-8", check=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        platforms = os.environ.get("JAX_PLATFORMS")
        where = f"environment: JAX_PLATFORMS={platforms}: " if platforms else ""
        raise UserError(f"{where}JAX finds no device ({last}); try JAX_PLATFORMS=cpu") from error
    platform, count = probe.stdout.split()[-2:]
    return environments(platform, int(count), os.environ)


def environments(platform: str, count: int, given: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the result of `find_devices` for a platform with `count` devices.

    Args:
      platform: cpu, gpu or tpu.
      count: number of devices.
      given: environment of this process.
    """
    if platform == "cpu":
        return [{"JAX_NUM_CPU_DEVICES": "1"}] * count
    if platform not in _VISIBLE:
        raise UserError(f"JAX runs on {platform}; crossval supports cpu, gpu and tpu")
    variable = _VISIBLE[platform]
    # Devices that the user or a queue has hidden stay hidden.
    names = [name for name in given.get(variable, "").split(",") if name]
    names = names or [str(index) for index in range(count)]
    more = _ONE_CHIP if platform == "tpu" else {}
    return [{variable: name, **more} for name in names[:count]]


@dataclasses.dataclass
class _Worker:
    device: int
    process: subprocess.Popen
    job: Any = None
    text: bytes = b""


class Workers:
    """Starts a worker for each device when it is needed, and again after one has died."""

    def __init__(
        self,
        devices: Sequence[Mapping[str, str]],
        log: Path,
        keep_open: int,
        imports: Sequence[str] = (),
    ):
        """Starts no process yet.

        Args:
          devices: environment of each.
          log: folder for the output of workers outside of their jobs.
          keep_open: a file descriptor that workers inherit: the lock of the study, which is held
            until the last of them has ended.
          imports: values of --import.
        """
        self._flags = [f"--import={name}" for name in imports]
        self._environments, self._log, self._keep = devices, log, keep_open
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()

    @property
    def busy(self) -> dict[int, Any]:
        """Device -> the job that is running there."""
        workers = self._workers.values()
        return {worker.device: worker.job for worker in workers if worker.job is not None}

    @property
    def free(self) -> list[int]:
        """Devices without a job."""
        return [device for device in range(len(self._environments)) if device not in self.busy]

    def give(self, device: int, job: Any, message: Mapping[str, Any]) -> None:
        """Starts a job.

        Args:
          device: a free one.
          job: returned by `wait` when the job has ended.
          message: the job for the worker; JSON.
        """
        worker = self._workers.get(device) or self._start(device)
        worker.job = job
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died, and `wait` will report it
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def wait(self, seconds: float) -> list[tuple[Any, JobResult]]:
        """Returns jobs that have ended; waits at most this long for the first of them."""
        ended = []
        for key, _ in self._selector.select(seconds) if self._workers else []:
            worker: _Worker = key.data
            chunk = os.read(key.fd, 1 << 16)
            *lines, worker.text = (worker.text + chunk).split(b"\n")
            for line in lines:
                result = JobResult(**json.loads(line))
                if result.status != READY:
                    ended.append((worker.job, result))
                    worker.job = None
            if not chunk:
                result = self._remove(worker)
                if worker.job is not None:
                    ended.append((worker.job, result))
        return ended

    def _start(self, device: int) -> _Worker:
        self._log.mkdir(parents=True, exist_ok=True)
        path = self._log / f"worker{device}.txt"
        with path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "leukjax.crossval.worker", *self._flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._environments[device]},
                pass_fds=(self._keep,),
                start_new_session=True,  # only the study gets Ctrl-C, and passes it on
            )
        worker = _Worker(device, process)
        self._workers[device] = worker
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        return worker

    def _remove(self, worker: _Worker) -> JobResult:
        """Returns the result of a worker that ended without reporting one."""
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        del self._workers[worker.device]
        for stream in (worker.process.stdin, worker.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # the job that it never read
                stream.close()
        status = worker.process.wait()
        if status == -signal.SIGTERM:  # outside of the training loop, where nothing has to be saved
            return JobResult(STOPPED, "SIGTERM")
        if status < 0:
            memory = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
            reason = f"the process was killed by {signal.Signals(-status).name}{memory}"
        else:
            reason = f"the process ended with status {status}"
        return JobResult(FAILED, f"{reason}; see {self._log}")

    def terminate(self) -> None:
        """Tells all workers to save and stop."""
        for worker in self._workers.values():
            worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Ends all workers and waits for them; busy ones save and stop."""
        for worker in list(self._workers.values()):
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in list(self._workers.values()):
            while os.read(worker.process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
                pass  # a full pipe would block the worker while it saves
            self._remove(worker)
