"""Weights of groups that leave out one group at a time, without the matrix of groups x groups."""

import functools

import numpy as np
from jaxtyping import Float, Int

# Elements of the largest intermediate array: it fits into the processor's cache.
CHUNK = 1 << 18


class LeaveOneOut:
    """A matrix of weights [g, g] whose row i leaves out group i.

    The other groups of its stratum get the weight n / (n - 1): the number of groups of each class
    is fixed and not sampled, so leaving one out must not change the shares of the classes.

    Row i is ``1 + (factor - 1) * [group in stratum of i] - factor * [group is i]``, so a product
    with it needs the sums of the strata only.

    Attributes:
        stratum: of each group.
        factor: weight of the other groups of each group's stratum.
    """

    def __init__(self, stratum: Int[np.ndarray, " g"]) -> None:
        self.stratum = stratum

    def __len__(self) -> int:
        return len(self.stratum)

    @functools.cached_property
    def factor(self) -> Float[np.ndarray, " g"]:
        """The weight of the other groups of each group's stratum."""
        size = np.bincount(self.stratum)[self.stratum]
        return size / np.maximum(size - 1, 1)

    def by_stratum(self, table: Float[np.ndarray, "g *k"]) -> Float[np.ndarray, "g *k"]:
        """Returns for each group the sum of `table` over its stratum."""
        totals = np.zeros((self.stratum.max() + 1, *table.shape[1:]))
        np.add.at(totals, self.stratum, table)
        return totals[self.stratum]

    def __matmul__(self, table: Float[np.ndarray, "g *k"]) -> Float[np.ndarray, "g *k"]:
        same = self.by_stratum(table)
        factor = self.factor.reshape(-1, *(1,) * (table.ndim - 1))
        # In this order counts that become 0 are exactly 0.
        return (table.sum(axis=0) - same) + factor * (same - table)


# One row per resample, one column per group.
Weights = Float[np.ndarray, "r g"] | LeaveOneOut
