"""The steps of a run, cut into calls at every moment between two steps."""

from hypothesis import given
from hypothesis import strategies as st

from leukjax.training.prefetch import plan_dispatches


def test_a_call_ends_where_something_is_done():
    assert list(plan_dispatches(0, 10, 1)) == [(step, 1) for step in range(10)]
    assert list(plan_dispatches(0, 9, 4)) == [(0, 4), (4, 4), (8, 1)]
    assert list(plan_dispatches(0, 10, 4, every=(5,))) == [(0, 4), (4, 1), (5, 4), (9, 1)]
    assert list(plan_dispatches(0, 8, 4, at=(2, 6))) == [(0, 1), (1, 1), (2, 4), (6, 1), (7, 1)]
    assert list(plan_dispatches(7, 7, 4)) == []


@given(
    st.integers(0, 60),
    st.integers(0, 90),
    st.integers(1, 12),
    st.lists(st.integers(1, 20), max_size=2),
    st.lists(st.integers(0, 90), max_size=2),
)
def test_every_step_once_in_two_lengths_and_no_moment_inside(start, stop, most, every, at):
    cut = list(plan_dispatches(start, stop, most, every=every, at=at))
    steps = [step for first, count in cut for step in range(first, first + count)]
    assert steps == list(range(start, stop))
    assert {count for _, count in cut} <= {1, most}
    for first, count in cut:
        for inside in range(first + 1, first + count):
            assert inside not in at
            assert all(inside % period for period in every)
