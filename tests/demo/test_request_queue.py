"""One thread, batches of what waits, bounded places, and failures that stay where they are."""

import threading

import pytest

from leukjax.demo.request_queue import Desk


def test_what_waits_is_answered_together_and_in_order():
    go, batches = threading.Event(), []

    def answer(questions):
        go.wait(10)
        batches.append((threading.current_thread().name, list(questions)))
        return [10 * question for question in questions]

    desk = Desk(answer, batch_size=3, places=9)
    futures = [desk.ask(number) for number in range(8)]
    go.set()
    assert [future.result(10) for future in futures] == [10 * number for number in range(8)]
    desk.close()
    # The first may have been taken before the second was asked.
    assert [one for _, questions in batches for one in questions] == list(range(8))
    assert len(batches) <= 4
    assert max(len(questions) for _, questions in batches) == 3
    assert {name for name, _ in batches} == {"models"}


def test_a_failure_is_told_to_its_batch_only():
    def answer(questions):
        if "bad" in questions:
            raise ValueError("no")
        return questions

    desk = Desk(answer, batch_size=1, places=3)
    bad, good = desk.ask("bad"), desk.ask("good")
    with pytest.raises(ValueError, match="no"):
        bad.result(10)
    assert good.result(10) == "good"
    desk.close()


def test_places_are_taken_whole_or_not_at_all():
    desk = Desk(lambda questions: questions, batch_size=1, places=3)
    assert desk.reserve(2)
    assert not desk.reserve(2)
    assert desk.reserve(1)
    desk.release(3)
    assert desk.reserve(3)
    desk.close()
