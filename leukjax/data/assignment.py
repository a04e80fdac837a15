"""Assigns the groups of a manifest to parts or folds, by shares and a seed."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from leukjax.data.group_split import best_draw
from leukjax.data.manifest import Manifest
from leukjax.data.parts import HELD_OUT, PARTS
from leukjax.errors import UserError


def by_shares(
    manifest: Manifest, protocol: str, seed: int, shares: Sequence[float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a part of each image, whole groups ("image": single images) in one part.

    The groups of a class that has fewer of them than there are parts train.

    Returns:
      str[n], and the names of these classes.

    Raises:
      UserError: too few groups.
    """
    units, counts, labelled = _units(manifest, manifest.label >= 0, by_image=protocol == "image")
    rare = _rare(manifest, counts, len(PARTS), protocol)
    free = ~np.any(counts[:, rare] > 0, axis=1)
    assigned = np.zeros(len(counts), np.int64)
    assigned[free] = _draw(counts, free, ~rare, shares, _generator(seed, protocol))
    part = np.zeros(len(manifest), "<U5")
    part[labelled] = np.array(PARTS)[assigned[units]]
    return part, _named(manifest, rare)


def by_folds(
    manifest: Manifest, seed: int, folds: int, fold: int, outside: Bool[np.ndarray, "n"]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a part of each image: fold `fold` tests, the next one validates, the others train.

    Args:
      manifest: the images.
      seed: of the folds.
      folds: number of folds.
      fold: the fold that tests.
      outside: images that are in no fold.

    Returns:
      str[n], and the names of the classes with fewer groups than folds.

    Raises:
      UserError: too few folds or groups, or no such fold.
    """
    if folds < 3:
        raise UserError(
            f"split.folds: {folds} is too few; one fold tests, one validates, the others train"
        )
    if not 0 <= fold < folds:
        raise UserError(f"split.fold: {fold} is not in 0..{folds - 1} (split.folds is {folds})")
    units, counts, used = _units(manifest, (manifest.label >= 0) & ~outside)
    rare = _rare(manifest, counts, folds, "kfold")
    assigned = best_draw(counts, (1 / folds,) * folds, _generator(seed, f"kfold {folds}"))
    part = np.where(outside, HELD_OUT, "")
    fold_of_row = assigned[units]
    validates = fold_of_row == (fold + 1) % folds
    part[used] = np.where(fold_of_row == fold, "test", np.where(validates, "val", "train"))
    return part, _named(manifest, rare)


def some_groups(
    manifest: Manifest, among: Bool[np.ndarray, "n"], share: float, seed: int, purpose: str
) -> Bool[np.ndarray, "n"]:
    """Chooses whole groups of some labelled images, stratified by class.

    Classes with a single group there keep it.

    Args:
      manifest: the images.
      among: the images to choose from.
      share: wanted share of them, in (0, 1).
      seed: of the choice.
      purpose: seeds of different purposes give independent choices.

    Returns:
      bool[n], the images that were chosen.

    Raises:
      UserError: no class but one has two groups.
    """
    units, counts, used = _units(manifest, among)
    rare = np.asarray((counts > 0).sum(axis=0) < 2)
    if (~rare).sum() < 2:
        raise UserError(
            f"split.protocol {purpose}: the training part has fewer than two classes with two "
            "groups, so that no validation part can be made of it. Give a validation part"
        )
    free = ~np.any(counts[:, rare] > 0, axis=1)
    chosen = np.zeros(len(counts), bool)
    chosen[free] = _draw(counts, free, ~rare, (1 - share, share), _generator(seed, purpose))
    result = np.zeros(len(manifest), bool)
    result[used] = chosen[units]
    return result


def groups_of_classes(manifest: Manifest, among: Bool[np.ndarray, "n"]) -> Int[np.ndarray, " c"]:
    """Returns the number of groups, among some labelled images, that hold each class."""
    return (_units(manifest, among)[1] > 0).sum(axis=0)


def _units(
    manifest: Manifest, used: Bool[np.ndarray, "n"], by_image: bool = False
) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "u c"], Bool[np.ndarray, "n"]]:
    """Returns the unit of each used row, the images by unit and class, and these rows.

    Units are assigned to parts as a whole. They are numbered by name, so that the order of the
    rows does not matter.
    """
    if by_image:
        rows = np.flatnonzero(used)
        units = np.empty(len(rows), np.int64)
        units[np.argsort(manifest.id[rows])] = np.arange(len(rows))
        number = len(rows)
    else:
        # Groups without a used image would be empty units.
        present, units = np.unique(manifest.group_codes[1][used], return_inverse=True)
        number = len(present)
    counts = np.zeros((number, len(manifest.classes)))
    np.add.at(counts, (units, manifest.label[used]), 1)
    return units, counts, used


def _draw(
    counts: Float[np.ndarray, "u c"],
    free: Bool[np.ndarray, " u"],
    classes: Bool[np.ndarray, " c"],
    shares: Sequence[float],
    generator: np.random.Generator,
) -> Int[np.ndarray, " f"]:
    """Returns the part of each free unit; the other classes have no unit among them."""
    # Rows in memory one after the other: other layouts round the sums of the draws differently.
    return best_draw(np.ascontiguousarray(counts[free][:, classes]), shares, generator)


def _rare(
    manifest: Manifest, counts: Float[np.ndarray, "u c"], parts: int, protocol: str
) -> Bool[np.ndarray, " c"]:
    """Returns the classes that have fewer units than there are parts.

    Raises:
      UserError: they cannot be left out of parts: the problem has two classes, the split is by
        image, fewer than two other classes are left, or a class has no image at all.
    """
    units = (counts > 0).sum(axis=0)
    rare = units < parts
    absent = np.isin(np.arange(len(units)), manifest.label, invert=True).any()
    tolerated = protocol != "image" and (~rare).sum() >= 2 and not absent
    if rare.any() and not tolerated:
        label = int(np.flatnonzero(rare)[units[rare].argmin()])
        what = "images" if protocol == "image" else "groups"
        fix = "Lower split.folds or add data" if protocol == "kfold" else "Add data"
        raise UserError(
            f"split.protocol {protocol}: class {manifest.classes[label]} has {units[label]} {what} "
            f"for {parts} parts. {fix}"
        )
    return rare


def _named(manifest: Manifest, chosen: Bool[np.ndarray, " c"]) -> tuple[str, ...]:
    return tuple(manifest.classes[label] for label in np.flatnonzero(chosen))


def _generator(seed: int, protocol: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(protocol.encode())])
