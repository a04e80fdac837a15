import io

from absl import logging

from leukjax.data import progress as module
from leukjax.data.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *args: said.append(text % args))
    return said


def test_a_log_file_gets_plain_lines(monkeypatch):
    said = lines(monkeypatch)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(module.sys, "stderr", stream := io.StringIO())
    assert list(progress(iter("abcdef"), 6, "preparing")) == list("abcdef")
    assert said[0] == "preparing: 3 of 6 images, 0.2/s, 12 s left"
    assert said[-1].startswith("preparing: 6 images in 28.0 s")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    said = lines(monkeypatch)
    monkeypatch.setattr(module.sys, "stderr", stream := Terminal())
    assert list(progress(range(5), 5, "preparing")) == list(range(5))
    assert "preparing" in stream.getvalue()
    assert "5" in stream.getvalue()
    assert said == []
