"""SIGTERM outside of the training loop; inside, tests/system and the slow proofs."""

import os
import signal

import pytest

from leukjax.errors import Stopped
from leukjax.training.preemption import StopRequest, stops_at_once


def test_where_nothing_has_to_be_saved_it_stops_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with stops_at_once():
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested() == "SIGTERM"
        with pytest.raises(Stopped, match="the same command continues"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_several_processes_answer_after_the_first_step(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1234")
    before = signal.getsignal(signal.SIGTERM)
    with stops_at_once():
        assert signal.getsignal(signal.SIGTERM) == before
