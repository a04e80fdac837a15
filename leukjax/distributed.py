"""Several processes of one run: they join, take decisions together, and end together.

Each is started with ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` in
its environment (`launch/` does it). Decisions go through the coordinator of `jax.distributed`, a
small server inside process 0, and use no device. With one process the functions here just do the
work.
"""

import atexit
import contextlib
import errno
import ipaddress
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from absl import logging

# The server is public, its client is not; Orbax uses it in the same manner.
from jax._src import distributed

from leukjax import config as configs
from leukjax import runtime, storage, terminal
from leukjax.coordinator_proxy import CoordinatorProxy
from leukjax.errors import Stopped, UserError

T = TypeVar("T")

ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
BEAT = 2.0  # seconds between two heartbeats
SILENCE = 40.0  # seconds without a heartbeat after which a process counts as lost
_FOREVER = 2**31 - 1  # milliseconds; a wait ends earlier when a process fails or is lost

_decisions = 0  # taken so far, the same number on every process


def join(timeout: int) -> None:
    """Joins the other processes, if the environment names any.

    Args:
      timeout: seconds to wait for them.

    Raises:
      UserError: an incomplete or wrong environment, or peers that do not join.
    """
    given = [name for name in ENVIRONMENT if os.environ.get(name)]
    if not given:
        return
    if len(given) < len(ENVIRONMENT):
        missing = ", ".join(name for name in ENVIRONMENT if name not in given)
        raise UserError(
            f"environment: {missing} missing; several processes need {', '.join(ENVIRONMENT)}"
        )
    address, count, index = os.environ[ENVIRONMENT[0]], _whole(1), _whole(2)
    port = address.rpartition(":")[2]
    if not (0 <= index < count and ":" in address and port.isdecimal() and int(port) < 2**16):
        raise UserError(
            f"environment: JAX_COORDINATOR_ADDRESS={address}, JAX_PROCESS_ID={index}, "
            f"JAX_NUM_PROCESSES={count}: must be HOST:PORT and an index below the number"
        )
    if not index:
        _check_port(int(port))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its processes may wait for each other for ever (`leukjax.training.preemption`).
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)
    logging.info("waiting for %d processes at %s", count, address)
    proxy = CoordinatorProxy(address, on_loss=lambda: _leave(_lost(0))) if index else None
    alone = threading.Timer(timeout, _no_one_joined, (address, count, index, timeout))
    alone.daemon = True
    alone.start()
    try:
        jax.distributed.initialize(
            proxy.address if proxy else address,
            count,
            index,
            initialization_timeout=timeout + 600,  # JAX dumps the stack when it is reached
            # Our own watch is quicker; JAX's ends the process with a stack dump.
            heartbeat_timeout_seconds=100,
            coordinator_bind_address=None if index else _bind_address(address),
            shutdown_timeout_seconds=60,
            cluster_detection_method="deactivate",
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address}: process {index} of {count} cannot join "
            f"({str(error).splitlines()[0]})"
        ) from error
    alone.cancel()
    if proxy:
        proxy.watch()
    if index:
        logging.set_verbosity(logging.ERROR)  # process 0 logs for all
    _Watch(proxy).start()


def _check_port(port: int) -> None:
    """Raises UserError if another program listens at the port: JAX may crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed one may linger
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # JAX says what it is
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS: port {port} is in use on this machine; choose another, "
                "the same for all processes"
            ) from error


def _bind_address(address: str) -> str | None:
    """The address on which process 0 listens; None for JAX's default, all of this machine.

    An IP address of this machine, as `launch/local.sh` gives it, is all that the others need. A
    name may stand for a loopback address on this machine and for another one elsewhere.
    """
    if os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return None  # JAX reads it
    host = address.rsplit(":", 1)[0].strip("[]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        version = ipaddress.ip_address(host).version
        with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):  # no IP address, or one that is translated on the way here
        return None
    port = address.rsplit(":", 1)[1]
    return f"[{host}]:{port}" if version == 6 else f"{host}:{port}"


def _whole(place: int) -> int:
    name = ENVIRONMENT[place]
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UserError(f"environment: {name}={os.environ[name]}: must be a number") from error


def _no_one_joined(address: str, count: int, index: int, timeout: int) -> None:
    print(
        f"error: JAX_COORDINATOR_ADDRESS={address}: process {index} of {count} did not meet its "
        f"peers within runtime.timeout={timeout} s; start all of them, or correct the address",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def process_count() -> int:
    """Number of processes of this run."""
    return _place()[1]


class SharedValues:
    """One text of each process under a name, written once and read by all."""

    def __init__(self, name: str) -> None:
        """Nothing is written; the processes of a run use the same names."""
        self._folder = f"leukjax/{name}/"

    def write(self, text: str) -> None:
        """Publishes this process's text."""
        _client().key_value_set(f"{self._folder}{_place()[0]}", text)

    def read(self) -> list[str]:
        """The texts published so far."""
        return [text for _, text in _client().key_value_dir_get(self._folder)]


def first(work: Callable[[], T]) -> T:
    """Does work on process 0 first, and then on the others, which find its results in a cache."""
    if not several():
        return work()
    if jax.process_index() == 0:
        result = work()
        from_first(lambda: None)
        return result
    from_first(lambda: None)
    return work()


def from_first(work: Callable[[], Any]) -> Any:
    """Does work on process 0 only, and returns its result on all; anything that JSON can hold."""
    global _decisions
    if not several():
        return work()
    _decisions += 1
    key = f"leukjax/decisions/{_decisions}"
    if jax.process_index() == 0:
        _client().key_value_set(key, json.dumps(work()))
    return json.loads(_client().blocking_key_value_get(key, _FOREVER))


def check_same(content: dict[str, Any], what: str, ignore: tuple[str, ...] = ()) -> None:
    """Checks that every process has what process 0 has.

    Raises:
      UserError: naming every field that differs, on the process where it does.
    """
    different = configs.differences(from_first(lambda: content), content, ignore=ignore)
    if different:
        raise UserError(
            f"{what}: not the same on process 0 -> process {jax.process_index()}: "
            f"{'; '.join(different)}; start all processes with the same command and data"
        )
    if several():  # no process continues before all have compared
        _client().wait_at_barrier(f"leukjax/same/{_decisions}", _FOREVER)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Inside, an error of one process ends all of them, with its message."""
    try:
        yield
    except Stopped:
        raise  # all stop at the same step
    except BaseException as error:
        if _client() is None or not several():
            raise
        if not isinstance(error, UserError | OSError | KeyboardInterrupt):
            # A lost peer can show as any error of the device: give the watch, here or in process 0,
            # the time to notice it.
            _wait_for_heartbeats(error)
        _leave(_own(error))


def _client() -> Any:
    return distributed.global_state.client


def _place() -> tuple[int, int]:
    """Index and number of processes, without waiting for devices as `jax.process_index` may."""
    return distributed.global_state.process_id, distributed.global_state.num_processes


def _own(error: BaseException) -> dict[str, Any]:
    text = str(error) if isinstance(error, UserError) else storage.describe_failure(error)
    text = text or runtime.describe_no_device(error)
    if text is None:
        traceback.print_exception(error)
        text = f"{type(error).__name__}: {error}"
    text = terminal.escape(" ".join(text.split()))
    return {"process": _place()[0], "status": 1, "message": text}


def _lost(process: int) -> dict[str, Any]:
    return {"process": process, "status": 75, "message": ""}


def _wait_for_heartbeats(error: BaseException) -> None:
    before = dict(_client().key_value_dir_get("leukjax/alive/"))
    deadline = time.monotonic() + 5 * BEAT
    silent: list[str] = []
    while time.monotonic() < deadline:
        time.sleep(BEAT / 4)
        now = dict(_client().key_value_dir_get("leukjax/alive/"))
        silent = [name for name in before if now.get(name) == before[name]]
        if not silent:
            return
    logging.debug("after %s", error)
    _leave(_lost(int(silent[0].rsplit("/", 1)[1])))


_leaving = threading.Lock()


def _leave(end: dict[str, Any]) -> None:
    """Tells the others, prints the reason, and ends this process at once."""
    _leaving.acquire()  # never released: the first reason counts
    index, count = _place()
    is_own = end["process"] == index
    if end["message"]:
        who = "" if is_own else f"process {end['process']} of {count}: "
        line = f"error: {who}{end['message']}"
    else:
        line = (
            f"stopped: process {end['process']} of {count} was lost; everything up to the last "
            "checkpoint is saved: start all processes again to resume"
        )
    print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
    if end != _lost(0):  # the server is in process 0
        _publish(end)
    sys.stdout.flush()
    os._exit(end["status"])


def _publish(end: dict[str, Any]) -> None:
    index, count = _place()
    with contextlib.suppress(Exception):  # another process may have been first
        _client().key_value_set("leukjax/end/why", json.dumps(end))
    with contextlib.suppress(Exception):
        _client().key_value_set(f"leukjax/left/{index}", "")
        # The server ends with process 0, which therefore ends last.
        deadline = time.monotonic() + 4 * BEAT
        while index == 0 and time.monotonic() < deadline:
            if len(_client().key_value_dir_get("leukjax/left/")) == count:
                break
            time.sleep(BEAT / 20)


class _Watch(threading.Thread):
    """Sends heartbeats, and ends this process when another one failed or was lost."""

    def __init__(self, proxy: CoordinatorProxy | None) -> None:
        super().__init__(name="watch", daemon=True)
        self._proxy, self._over = proxy, threading.Event()
        # Runs before JAX's own clean-up, which is registered earlier.
        atexit.register(self._end)

    def _end(self) -> None:
        # Process 0 writes the report while the others wait here and still watch; then all close
        # their connections.
        if self._proxy is None:
            _client().key_value_set("leukjax/over", "")
        else:
            _client().blocking_key_value_get("leukjax/over", _FOREVER)
            self._proxy.stop_watching()
        self._over.set()

    def run(self) -> None:
        beats, index = 0, _place()[0]
        seen: dict[str, tuple[str, float]] = {}  # process -> (its beat, when it was first seen)
        while not self._over.wait(BEAT):
            beats += 1
            try:
                _client().key_value_set(f"leukjax/alive/{index}", str(beats), allow_overwrite=True)
                ends = _client().key_value_dir_get("leukjax/end/")
                alive = [] if index else _client().key_value_dir_get("leukjax/alive/")
            except Exception as error:  # the coordinator has ended, or this process ends
                logging.debug("watch: %s", error)
                continue
            if ends:
                _leave(json.loads(ends[0][1]))
            now = time.monotonic()
            for name, beat in alive:
                if name not in seen or seen[name][0] != beat:
                    seen[name] = (beat, now)
                elif now - seen[name][1] > SILENCE:
                    _leave(_lost(int(name.rsplit("/", 1)[1])))
