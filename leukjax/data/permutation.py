"""Any part of a permutation of n places without the rest of it: the one of Grain's `shuffle`.

A cipher permutes the numbers of 2w bits; a place whose cipher lies outside 0..n-1 is enciphered
again until it lies inside (cycle walking: Black and Rogaway, CT-RSA 2002). Grain does one place a
call and so takes 43 us for a place among 800; here thousands are done at once.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

_LEAST_BITS = 16  # below, patterns show in the permutations
_MASK = 0xFFFFFFFF


def permuted(start: int, stop: int, n: int, seed: int) -> Int64[np.ndarray, "m"]:
    """What the places `start` to before `stop` of 0..n-1 hold; `seed` in 0..2**32-1.

    Four rounds of Simon (Beaulieu et al. 2013, https://eprint.iacr.org/2013/404) with keys by
    C++'s std::seed_seq, as in Grain's index_shuffle. The time does not depend on n, except that
    below 65,536 the whole range of 16 bits is enciphered, once.
    """
    # Grain takes two bits too few where n - 1 is a power of four, and gives one place twice.
    bits = max((n - 1).bit_length() + (n - 1).bit_length() % 2, _LEAST_BITS)
    keys = _seed_sequence(seed)
    values = np.arange(start, stop, dtype=np.uint64)
    encipher: Callable[[np.ndarray], np.ndarray]
    if bits == _LEAST_BITS:
        # Few places among many numbers are walked for long: by a table.
        encipher = _simon(np.arange(1 << bits, dtype=np.uint64), bits // 2, keys).__getitem__
    else:

        def encipher(some: np.ndarray) -> np.ndarray:
            return _simon(some, bits // 2, keys)

    values = encipher(values)
    outside = np.flatnonzero(values >= n)
    while len(outside):
        walked = encipher(values[outside])
        values[outside] = walked
        outside = outside[walked >= n]
    return values.astype(np.int64)


def seed_of_shuffle(seed: int) -> int:
    """The seed that `MapDataset.seed(seed).shuffle()` shuffles its first epoch by; then one more
    each epoch.
    """
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint32)[0])


def _simon(
    values: UInt64[np.ndarray, "m"], width: int, keys: UInt32[np.ndarray, "4"]
) -> UInt64[np.ndarray, "m"]:
    mask = np.uint64((1 << width) - 1)

    def turned(x: np.ndarray, by: int) -> np.ndarray:
        return (x << np.uint64(by)) & mask | x >> np.uint64(width - by)

    def mixed(x: np.ndarray, key: int) -> np.ndarray:
        return turned(x, 1) & turned(x, 8) ^ turned(x, 2) ^ (np.uint64(key) & mask)

    left, right = values >> np.uint64(width), values & mask
    for first, second in keys.reshape(-1, 2):
        left = left ^ mixed(right, first)
        right = right ^ mixed(left, second)
    return left << np.uint64(width) | right


def _seed_sequence(seed: int) -> UInt32[np.ndarray, "4"]:
    """std::seed_seq{seed}.generate of four numbers (ISO C++, [rand.util.seedseq])."""
    n = 4
    out = [0x8B8B8B8B] * n
    added = [1, seed + 1, 2, 3]
    for k in range(n):
        this, after, last = k, (k + 1) % n, (k - 1) % n
        mixed = out[this] ^ out[after] ^ out[last]
        one = 1664525 * (mixed ^ mixed >> 27) & _MASK
        two = one + added[k] & _MASK
        out[after] = out[after] + one & _MASK
        out[(k + 2) % n] = out[(k + 2) % n] + two & _MASK
        out[this] = two
    for k in range(n):
        this, after, last = k, (k + 1) % n, (k - 1) % n
        mixed = out[this] + out[after] + out[last] & _MASK
        three = 1566083941 * (mixed ^ mixed >> 27) & _MASK
        four = three - k & _MASK
        out[after] ^= three
        out[(k + 2) % n] ^= four
        out[this] = four
    return np.array(out, np.uint32)
