"""Assigns groups to parts at random, balanced in groups and in images of every class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_DRAWS = 256
# Bounds the memory if each of 100,000 images is its own group.
_CELLS = 4_000_000
_MISSING = 1e6
# Above it random draws alone are balanced to 0.1 %, and there would be many pairs.
_MAX_REFINED = 1_000


def best_draw(
    counts: Float[np.ndarray, "groups classes"],
    shares: Sequence[float],
    generator: np.random.Generator,
) -> Int[np.ndarray, "groups"]:
    """Returns the part of each group.

    Groups are stratified by the class of most of their images. Within a stratum each part gets its
    share of the groups at random. Of several draws the one is kept whose shares of images and of
    groups, over all classes, deviate least (squared) from the wanted ones; then pairs of groups of
    a stratum are swapped as long as the deviation falls. A draw that leaves a part without a class
    is used only if there is no other.

    Args:
      counts: float[groups, classes], images of each class in each group.
      shares: wanted share of each part; their sum is 1.
      generator: the only source of randomness.

    Returns:
      int[groups], the part of each group.
    """
    groups = len(counts)
    wanted = np.asarray(shares)
    draws = int(np.clip(_CELLS // max(1, groups * len(wanted)), 8, _DRAWS))
    stratum = counts.argmax(axis=1)
    parts = np.zeros((draws, groups), np.int8)
    for label in range(counts.shape[1]):
        members = np.flatnonzero(stratum == label)
        if len(members):
            ranks = generator.random((draws, len(members))).argsort(axis=1)
            quota = _quota(len(members), wanted, draws, generator)
            parts[:, members] = np.take_along_axis(quota, ranks, axis=1)
    holds = (counts > 0).astype(np.float64)
    portions = np.concatenate(
        [counts / counts.sum(axis=0).clip(1), holds / holds.sum(axis=0).clip(1)], axis=1
    )
    score = np.zeros(draws)
    for part, share in enumerate(wanted):
        got = (parts == part).astype(np.float64) @ portions
        score += ((got - share) ** 2).sum(axis=1) + _MISSING * (got == 0).sum(axis=1)
    best = parts[score.round(9).argmin()].astype(np.int64)
    if groups <= _MAX_REFINED:
        _swap(best, portions, stratum, wanted)
    return best


def _swap(
    parts: Int[np.ndarray, "g"],
    portions: Float[np.ndarray, "g f"],
    stratum: Int[np.ndarray, "g"],
    wanted: Float[np.ndarray, "p"],
) -> None:
    """Swaps, in place, pairs of groups of one stratum as long as the deviation falls.

    Args:
      parts: part of each group.
      portions: share of each group in the images and the groups of every class.
      stratum: only groups of one stratum are swapped.
      wanted: share of each part.
    """
    squares = (portions**2).sum(axis=1)
    products = portions @ portions.T
    distances = squares[:, None] + squares[None, :] - 2 * products
    sums = _sums(parts, portions, len(wanted))
    common = (portions > 0).sum(axis=0) >= len(wanted)  # classes that each part can have
    for _ in range(len(parts)):
        excess = (sums - wanted[:, None])[parts]
        cross = portions @ excess.T  # [i, j]: what i holds, weighed by the excess of j's part
        diagonal = np.diagonal(cross)
        # Half of |e_p + d|^2 + |e_q - d|^2 - |e_p|^2 - |e_q|^2 with d = f_j - f_i.
        change = cross.T + cross - diagonal[None, :] - diagonal[:, None] + distances
        change[(stratum[:, None] != stratum[None, :]) | (parts[:, None] == parts[None, :])] = 0
        # Rounded, so that the last bits of a matrix product, which differ between machines, do not
        # decide between equally good swaps.
        i, j = np.unravel_index(change.round(9).argmin(), change.shape)
        if change[i, j] > -1e-8:
            return
        parts[[i, j]] = parts[[j, i]]
        before, sums = sums, _sums(parts, portions, len(wanted))
        if (sums[:, common] == 0).any() and (before[:, common] > 0).all():
            parts[[i, j]] = parts[[j, i]]  # never if it costs a part its class
            return


def _sums(
    parts: Int[np.ndarray, "g"], portions: Float[np.ndarray, "g f"], number: int
) -> Float[np.ndarray, "p f"]:
    """Returns the sum of the portions of each part."""
    return np.stack([portions[parts == part].sum(axis=0) for part in range(number)])


def _quota(
    members: int, wanted: Float[np.ndarray, "p"], draws: int, generator: np.random.Generator
) -> Int[np.ndarray, "draws members"]:
    """Returns part numbers for a stratum, per draw: each part's share, to within one group.

    Groups left by rounding go to random parts in proportion to their remainders, and every part
    gets a group if there are enough.
    """
    exact = wanted * members
    base = np.floor(exact).astype(np.int64)
    if members >= len(wanted):
        base = np.maximum(base, 1)
        while base.sum() > members:
            base[np.where(base > 1, base - exact, -np.inf).argmax()] -= 1
    left = members - int(base.sum())
    # Exponential races: the smallest times win, with probabilities given by the remainders.
    weights = np.maximum(exact - base, 1e-9)
    times = generator.exponential(size=(draws, len(wanted))) / weights
    extra = np.zeros((draws, len(wanted)), np.int64)
    np.put_along_axis(extra, times.argsort(axis=1)[:, :left], 1, axis=1)
    ends = (base + extra).cumsum(axis=1)
    ranks = np.arange(members)
    return (ranks[None, :, None] >= ends[:, None, :]).sum(axis=2).astype(np.int8)
