"""Deals groups out to parts at random, balanced in groups and in images of every class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_DRAWS = 256
# Bounds the memory where each of 100,000 images is its own group.
_CELLS = 4_000_000
_MISSING = 1e6
# Above it draws alone are balanced to a per mille, and all pairs would be many.
_MAX_REFINED = 1_000


def best_draw(
    counts: Float[np.ndarray, "groups classes"],
    shares: Sequence[float],
    generator: np.random.Generator,
) -> Int[np.ndarray, "groups"]:
    """Assigns each group to a part.

    Groups are stratified by the class that most of their images have. Within a stratum each part
    gets its share of the groups, and which groups it gets is drawn; of several draws the one is
    kept whose shares of images and of groups, over all classes, deviate least (squared) from the
    wanted ones, and groups of a stratum change places as long as that falls. A draw that leaves a
    part without a class is taken only if there is no other.

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
            dealt = _deal(len(members), wanted, draws, generator)
            parts[:, members] = np.take_along_axis(dealt, ranks, axis=1)
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
    """Exchanges, in place, pairs of groups of one stratum as long as the deviation falls.

    Args:
      parts: part of each group.
      portions: what each group holds of the images and the groups of every class.
      stratum: groups exchange places within one only.
      wanted: share of each part.
    """
    squares = (portions**2).sum(axis=1)
    products = portions @ portions.T
    distances = squares[:, None] + squares[None, :] - 2 * products
    sums = _sums(parts, portions, len(wanted))
    for _ in range(len(parts)):
        excess = (sums - wanted[:, None])[parts]
        cross = portions @ excess.T  # [i, j]: what i holds, weighed by the excess of j's part
        own = np.diagonal(cross)
        # Half of |e_p + d|^2 + |e_q - d|^2 - |e_p|^2 - |e_q|^2 with d = f_j - f_i.
        change = cross.T + cross - own[None, :] - own[:, None] + distances
        change[(stratum[:, None] != stratum[None, :]) | (parts[:, None] == parts[None, :])] = 0
        # Rounded, so that the last bits of a matrix product, which differ between machines, choose
        # between no two swaps that are equally good.
        i, j = np.unravel_index(change.round(9).argmin(), change.shape)
        if change[i, j] > -1e-8:
            return
        parts[[i, j]] = parts[[j, i]]
        before, sums = sums, _sums(parts, portions, len(wanted))
        if (sums == 0).any() and (before > 0).all():
            parts[[i, j]] = parts[[j, i]]  # never at the price of a class
            return


def _sums(
    parts: Int[np.ndarray, "g"], portions: Float[np.ndarray, "g f"], number: int
) -> Float[np.ndarray, "p f"]:
    """What each part holds."""
    return np.stack([portions[parts == part].sum(axis=0) for part in range(number)])


def _deal(
    members: int, wanted: Float[np.ndarray, "p"], draws: int, generator: np.random.Generator
) -> Int[np.ndarray, "draws members"]:
    """Part numbers for a stratum, draw by draw: its share for each part, to within one group.

    What rounding leaves goes to parts drawn in proportion to their remainders, and every part gets
    a group where there are enough.
    """
    exact = wanted * members
    base = np.floor(exact).astype(np.int64)
    if members >= len(wanted):
        base = np.maximum(base, 1)
        while base.sum() > members:
            base[np.where(base > 1, base - exact, -np.inf).argmax()] -= 1
    left = members - int(base.sum())
    # Exponential races: the smallest times win, each part with chances after its remainder.
    weights = np.maximum(exact - base, 1e-9)
    times = generator.exponential(size=(draws, len(wanted))) / weights
    extra = np.zeros((draws, len(wanted)), np.int64)
    np.put_along_axis(extra, times.argsort(axis=1)[:, :left], 1, axis=1)
    ends = (base + extra).cumsum(axis=1)
    places = np.arange(members)
    return (places[None, :, None] >= ends[:, None, :]).sum(axis=2).astype(np.int8)
