"""Processes that read what strangers made, limited in memory and processor time."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO

_WAIT = 120  # seconds until an answer, should the process hang

_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from leukjax.data import limited_process
limited_process.run(sys.argv[2])
"""


class Died(Exception):
    """A process ended before it answered."""


class LimitedProcess:
    """A process that runs the function `serve` of a module, and answers until it is closed.

    Attributes:
      to: its standard input.
      out: its answers.
    """

    def __init__(self, module: str) -> None:
        """Starts the process.

        Args:
          module: its ``serve(stdin, out)`` reads requests until `stdin` ends, calls `limit` for
            each, and writes answers to `out`.

        Raises:
          OSError: it cannot be started.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Each thread of a library and each pool of memory takes address space.
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "1",
                "ARROW_DEFAULT_MEMORY_POOL": "system",
            },
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.to, self.out = self._process.stdin, self._process.stdout
        if self.out.readline() != b"ready\n":
            self.close()
            raise OSError("the process ended at its start")

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Inside, a request is written and its answer read, within a time limit.

        Raises:
          Died: the process ended.
        """
        timer = threading.Timer(_WAIT, self._process.kill)
        timer.start()
        try:
            yield
        except OSError as error:
            raise Died from error
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        for stream in (self.to, self.out):
            with contextlib.suppress(OSError):
                stream.close()
        self._process.wait()


def run(module: str) -> None:
    """Runs in the process: calls `serve` of a module."""
    out: IO[bytes] = os.fdopen(os.dup(1), "wb")
    stdin: io.BufferedReader = sys.stdin.buffer  # type: ignore[assignment]
    os.dup2(2, 1)  # output of a library must not be taken for an answer
    serve = importlib.import_module(module).serve
    out.write(b"ready\n")
    out.flush()
    serve(stdin, out)


def limit(seconds: int, memory: int) -> None:
    """Limits the bytes of memory, and the processor time of what follows, of this process."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    for name, value in (
        (resource.RLIMIT_CPU, until),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (soft, hard))
