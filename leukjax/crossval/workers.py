"""The workers of this machine: one a device, each a process that sees its device alone."""

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

from leukjax.crossval import job_result
from leukjax.crossval.job_result import Answer
from leukjax.errors import UserError

_PROBE = "import jax; print(jax.default_backend(), jax.local_device_count())"
# The variable that hides the other devices from a process.
_VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
# A process that takes one chip of a TPU host is a slice of its own.
_ONE_CHIP = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


def find_devices() -> list[dict[str, str]]:
    """For each device of this machine the environment in which a process sees it alone.

    A process of its own looks, because whoever looks takes the devices' memory.

    Raises:
      UserError: JAX does not start.
    """
    try:
        found = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, encoding="utf-8", check=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        platforms = os.environ.get("JAX_PLATFORMS")
        where = f"environment: JAX_PLATFORMS={platforms}: " if platforms else ""
        raise UserError(f"{where}JAX finds no device ({last}); try JAX_PLATFORMS=cpu") from error
    platform, count = found.stdout.split()[-2:]
    return environments(platform, int(count), os.environ)


def environments(platform: str, count: int, given: Mapping[str, str]) -> list[dict[str, str]]:
    """What `find_devices` gives, for a platform with `count` devices and an environment."""
    if platform == "cpu":
        return [{"JAX_NUM_CPU_DEVICES": "1"}] * count
    if platform not in _VISIBLE:
        raise UserError(f"JAX runs on {platform}; crossval knows cpu, gpu and tpu")
    variable = _VISIBLE[platform]
    # What the user, or a queue, already hid stays hidden.
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
    """Starts a worker for each device when it is needed, and again when one dies."""

    def __init__(
        self,
        devices: Sequence[Mapping[str, str]],
        log: Path,
        keep_open: int,
        imports: Sequence[str] = (),
    ):
        """No process is started yet.

        Args:
          devices: environment of each.
          log: folder for what a worker says outside of its jobs.
          keep_open: a file descriptor that workers inherit: the lock of the study, which is held
            until the last of them is gone.
          imports: values of --import.
        """
        self._flags = [f"--import={name}" for name in imports]
        self._environments, self._log, self._keep = devices, log, keep_open
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()

    @property
    def busy(self) -> dict[int, Any]:
        """Device -> the job that is under way there."""
        return {of.device: of.job for of in self._workers.values() if of.job is not None}

    @property
    def free(self) -> list[int]:
        """Devices without a job."""
        return [device for device in range(len(self._environments)) if device not in self.busy]

    def give(self, device: int, job: Any, message: Mapping[str, Any]) -> None:
        """Start a job; `job` is what `wait` will name."""
        worker = self._workers.get(device) or self._start(device)
        worker.job = job
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died, and `wait` will say so
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def wait(self, seconds: float) -> list[tuple[Any, Answer]]:
        """Jobs that have ended, waiting at most so long for the first of them."""
        ended = []
        for key, _ in self._selector.select(seconds) if self._workers else []:
            worker: _Worker = key.data
            chunk = os.read(key.fd, 1 << 16)
            *lines, worker.text = (worker.text + chunk).split(b"\n")
            for line in lines:
                answer = Answer(**json.loads(line))
                if answer.status != job_result.READY:
                    ended.append((worker.job, answer))
                    worker.job = None
            if not chunk:
                died = self._bury(worker)
                if worker.job is not None:
                    ended.append((worker.job, died))
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
                start_new_session=True,  # Ctrl-C is for the study, which passes it on
            )
        worker = _Worker(device, process)
        self._workers[device] = worker
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        return worker

    def _bury(self, worker: _Worker) -> Answer:
        """The answer of a worker that is gone without one."""
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        del self._workers[worker.device]
        for stream in (worker.process.stdin, worker.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # the job that it never read
                stream.close()
        status = worker.process.wait()
        if status == -signal.SIGTERM:  # it came outside of the loop, where there is nothing to save
            return Answer(job_result.STOPPED, "SIGTERM")
        if status < 0:
            memory = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
            why = f"the process was killed by {signal.Signals(-status).name}{memory}"
        else:
            why = f"the process ended with status {status}"
        return Answer(job_result.FAILED, f"{why}; {self._log} may say more")

    def terminate(self) -> None:
        """Ask all workers to save and stop."""
        for worker in self._workers.values():
            worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End idle workers and wait until all are gone; busy ones save and stop."""
        for worker in list(self._workers.values()):
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in list(self._workers.values()):
            while os.read(worker.process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
                pass  # the pipe must not fill up while it saves
            self._bury(worker)
