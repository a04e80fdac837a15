"""With one process every decision is the plain thing; the rest is in system/test_processes.py."""

import atexit
import socket

import jax
import pytest

from leukjax import distributed
from leukjax.errors import UserError


def test_one_process_decides_alone():
    assert not distributed.several()
    assert distributed.first(lambda: 1) == 1
    assert distributed.from_first(lambda: (1, None)) == (1, None)
    distributed.check_same({"a": {"b": 1}}, "config")
    with pytest.raises(ValueError, match="mine"), distributed.ending_together():
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID missing"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "h:1",
                "JAX_NUM_PROCESSES": "two",
                "JAX_PROCESS_ID": "0",
            },
            "JAX_NUM_PROCESSES=two: must be a number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "an index below the number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "must be HOST:PORT",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:x", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "must be HOST:PORT",
        ),
    ],
)
def test_a_wrong_environment(monkeypatch, environment, says):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        distributed.join(1)


def test_a_port_that_is_in_use(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        for name, value in zip(distributed.ENVIRONMENT, (address, "2", "0"), strict=True):
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match="is in use on this machine"):
            distributed.join(1)


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:81", "127.0.0.1:81"),
        ("localhost:81", "127.0.0.1:81"),
        ("203.0.113.9:81", None),  # of documentation: no machine has it
        ("node-1:81", None),
    ],
)
def test_process_0_listens_on_the_address_that_is_named(monkeypatch, address, bound):
    """JAX listens on all addresses by default."""
    given = []
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.setattr(distributed._Watch, "start", lambda watch: None)
    monkeypatch.setattr(atexit, "register", lambda work: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: given.append(options))
    distributed.join(60)
    assert given[0]["coordinator_bind_address"] == bound
