import re
import threading

import pytest

from leukjax import expressions
from leukjax.errors import UserError

ENDLESS = re.compile("(a+)+$")
LETTERS = "a" * 64 + "!"


def test_an_expression_without_end_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expressions, "SECONDS", 0.2)
    with pytest.raises(
        UserError, match=r"--config.data.subject_pattern=\(a\+\)\+\$: takes over 0\.2 s"
    ):
        expressions.search(ENDLESS, LETTERS, "config.data.subject_pattern")


def test_an_ordinary_search_is_that_of_re(monkeypatch: pytest.MonkeyPatch):
    found = expressions.search(
        re.compile(r"(p\d+)"), "all/p12_3.png", "config.data.subject_pattern"
    )
    assert found is not None
    assert found[1] == "p12"
    assert expressions.search(re.compile("q"), "all", "config.data.subject_pattern") is None


def test_other_threads_search_too():
    found: list = []
    thread = threading.Thread(
        target=lambda: found.append(expressions.search(re.compile("l+"), "all", "x"))
    )
    thread.start()
    thread.join()
    assert found[0][0] == "ll"
