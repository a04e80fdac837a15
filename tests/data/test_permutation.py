import grain
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leukjax.data import permutation


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 2**31), seed=st.integers(0, 2**32 - 1), data=st.data())
@example(n=65536, seed=0, data=None)
@example(n=65538, seed=2**32 - 1, data=None)
def test_it_is_grains(n, seed, data):
    if n.bit_count() == 2 and n & 1:  # one more than a power of two: the next test
        n += 1
    start = data.draw(st.integers(0, n - 1)) if data else 0
    stop = min(n, start + 20)
    theirs = grain.MapDataset.range(n).seed(seed).shuffle()
    for epoch in (0, 1, 7):
        wanted = [theirs[epoch * n + place] % n for place in range(start, stop)]
        own = permutation.seed_of_shuffle(seed)
        ours = permutation.permuted(start, stop, n, (own + epoch) % 2**32)
        assert ours.tolist() == wanted


@pytest.mark.parametrize("n", [1, 2, 3, 257, 65535, 65536, 65537, 262145])
def test_each_place_once(n):
    """Grain's own gives one place twice among 4**k + 1 (k from 8 on): 65537, 262145."""
    values = permutation.permuted(0, n, n, 5)
    np.testing.assert_array_equal(np.sort(values), np.arange(n))
    middle = n // 2
    np.testing.assert_array_equal(permutation.permuted(middle, n, n, 5), values[middle:])
