"""Synthetic subjects and cells: the random parameters from which `render` draws blood cells.

A subject has a class, traits that are independent of it (stain, illumination, focus,
magnification, segmentation) and a stage on the axis from blast to mature cell, so that cells of
one subject resemble each other and a classifier recognises a subject that it has seen. A cell
varies around its subject.

The classes differ in what haematologists look at: blasts have little cytoplasm, fine
chromatin, nucleoli and an irregular or cleft nucleus; mature lymphocytes have clumped chromatin
and a round nucleus without visible nucleoli. The parameters are ours, chosen so that the data set
behaves as `tests/data/test_smears.py` checks: they describe no patients.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from leukjax.data.synthetic.render import Cells, render

CLASSES = ("all", "hem")

# Raise it whenever a pixel changes: cached scans depend on it.
VERSION = 1

SIZE = 96  # pixels per side by default
BLOCK = 32  # cells of a subject that are drawn at once
NUCLEOLI = 4  # the most that one cell has
STAGE = 0.33  # spread of the subjects' own stage; the classes lie at +1 (blast) and -1 (mature)
COUNT = 0.25  # spread of the logarithm of the number of cells


@dataclass(frozen=True)
class SyntheticCells:
    """Synthetic cells, with their ground truth.

    Attributes:
      images: RGB, exactly black outside `cell`, and nowhere inside it.
      label: index into CLASSES.
      subject: str[n], names in C-NMC's manner: "7" for class all, "H7" for class hem.
      cell: mask of what the simulated segmentation kept.
      nucleus: mask of the nucleus, within `cell`.
      nucleoli: mask of the nucleoli, within `nucleus`.
      parameters: what the cells were drawn from, name -> array of length n: `subject_index`,
        `number` (of the cell, from 0 in each subject), `nucleoli_count`, and the fields of `Cells`.
    """

    images: UInt8[np.ndarray, "n size size 3"]
    label: Int32[np.ndarray, "n"]
    subject: np.ndarray
    cell: Bool[np.ndarray, "n size size"]
    nucleus: Bool[np.ndarray, "n size size"]
    nucleoli: Bool[np.ndarray, "n size size"]
    parameters: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.label)


def subject_label(index: int) -> int:
    """Returns the class of a subject: even ones are all (0), odd ones hem (1)."""
    return index % 2


def subject_name(index: int) -> str:
    """Returns the name of a subject in C-NMC's manner: "1", "H1", "2", "H2", …"""
    return f"{'H' if subject_label(index) else ''}{index // 2 + 1}"


def subject_cells(seed: int, index: int, cells: int) -> int:
    """Returns the number of cells of a subject, at least one; `cells` is the mean over subjects."""
    return max(1, round(cells * _generator(seed, index, "count").lognormal(-(COUNT**2) / 2, COUNT)))


def draw(seed: int, subjects: int, cells: int, size: int = SIZE) -> SyntheticCells:
    """Returns all cells of the first `subjects` subjects.

    Args:
      seed: of the random numbers. The cells of a subject depend on (seed, its index, `cells`,
        `size`) and not on the number of subjects.
      subjects: number of subjects; the classes alternate.
      cells: mean number of cells per subject.
      size: pixels per side.
    """
    return _join(list(draw_blocks(seed, subjects, cells, size)))


def draw_blocks(seed: int, subjects: int, cells: int, size: int = SIZE) -> Iterator[SyntheticCells]:
    """Yields the same cells, at most BLOCK of one subject at a time."""
    for index in range(subjects):
        for block in range(-(-subject_cells(seed, index, cells) // BLOCK)):
            yield draw_block(seed, index, block, cells, size)


def draw_block(
    seed: int,
    index: int,
    block: int,
    cells: int,
    size: int = SIZE,
    changed: Mapping[str, float | Sequence[float]] | None = None,
) -> SyntheticCells:
    """Returns the cells BLOCK * block, … of the subject `index`; other arguments as in `draw`.

    Args:
      changed: values for fields of `Cells` in all these cells, everything else unchanged:
        {"nucleolus_radius": 0} removes the nucleoli, which shows the pixels that depend on them.
    """
    first = BLOCK * block
    count = min(BLOCK, subject_cells(seed, index, cells) - first)
    drawn = _sample(seed, index, block, count)
    for name, value in (changed or {}).items():
        shape = getattr(drawn, name).shape
        drawn = replace(drawn, **{name: np.broadcast_to(np.asarray(value, np.float32), shape)})
    images, cell, nucleus, nucleoli = render(drawn, _generator(seed, index, "pixels", block), size)
    table = {
        "subject_index": np.full(count, index, np.int32),
        "number": np.arange(first, first + count, dtype=np.int32),
        "nucleoli_count": (drawn.nucleolus_radius > 0).sum(1).astype(np.int32),
    }
    table |= {field.name: getattr(drawn, field.name) for field in fields(Cells)}
    return SyntheticCells(
        images=images,
        label=np.full(count, subject_label(index), np.int32),
        subject=np.full(count, subject_name(index)),
        cell=cell,
        nucleus=nucleus,
        nucleoli=nucleoli,
        parameters=table,
    )


def _join(parts: list[SyntheticCells]) -> SyntheticCells:
    names = parts[0].parameters
    return SyntheticCells(
        images=np.concatenate([part.images for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        subject=np.concatenate([part.subject for part in parts]),
        cell=np.concatenate([part.cell for part in parts]),
        nucleus=np.concatenate([part.nucleus for part in parts]),
        nucleoli=np.concatenate([part.nucleoli for part in parts]),
        parameters={n: np.concatenate([part.parameters[n] for part in parts]) for n in names},
    )


def _generator(seed: int, index: int, purpose: str, block: int = 0) -> np.random.Generator:
    """Returns a separate stream for each purpose, so that they do not affect each other."""
    purposes = ("count", "subject", "cells", "pixels")
    return np.random.default_rng([seed, index, purposes.index(purpose), block])


def _sample(seed: int, index: int, block: int, count: int) -> Cells:
    """Returns the parameters of cells: those of the subject, then those of each cell."""
    subject = _generator(seed, index, "subject")
    cell = _generator(seed, index, "cells", block)
    side = 1.0 - 2.0 * subject_label(index)  # +1 blast, -1 mature

    # Some subjects' blasts look maturer than others', and some healthy children's precursors look
    # young: this shift along all class features at once is what makes unseen subjects hard.
    stage = side + STAGE * subject.standard_normal()

    def feature(centre: float, effect: float, of_subject: float, of_cell: float) -> np.ndarray:
        shift = of_subject * subject.standard_normal()
        return centre + effect * stage + shift + of_cell * cell.standard_normal(count)

    def trait(centre: float, of_subject: float, of_cell: float) -> np.ndarray:
        shift = of_subject * subject.standard_normal()
        return centre + shift + of_cell * cell.standard_normal(count)

    def vector(of_subject: float, of_cell: float, length: int = 3) -> np.ndarray:
        shift = of_subject * subject.standard_normal(length)
        return shift + of_cell * cell.standard_normal((count, length))

    def seldom(probability: float) -> np.ndarray:
        return cell.random(count) < probability

    scale = np.exp(trait(0.0, 0.06, 0.0))
    radius = np.clip(scale * np.exp(feature(np.log(0.68), 0.032, 0.04, 0.085)), 0.42, 0.86)
    ratio = np.clip(feature(0.79, 0.065, 0.022, 0.03), 0.6, 0.93)
    grain = scale * np.exp(feature(np.log(0.055), -0.30, 0.12, 0.08))
    contrast = np.exp(feature(np.log(0.12), -0.30, 0.13, 0.10))
    contour = np.exp(feature(np.log(0.030), 0.28, 0.12, 0.2))
    cleft = np.where(seldom(0.3 / (1 + np.exp(-3 * stage))), cell.uniform(0.15, 0.4, count), 0.0)

    expected = np.clip(np.exp(feature(np.log(0.65), 1.25, 0.2, 0.1)), 0.0, 2.5)
    number = np.minimum(cell.poisson(expected), NUCLEOLI)
    present = np.arange(NUCLEOLI) < number[:, None]
    spots = np.where(present, cell.uniform(0.12, 0.22, (count, NUCLEOLI)), 0.0)
    distance = np.sqrt(cell.uniform(0.0, 0.45, (count, NUCLEOLI)))
    angle = cell.uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi * np.arange(NUCLEOLI) / NUCLEOLI
    angle = angle + cell.uniform(-0.6, 0.6, (count, NUCLEOLI))

    flap = np.where(seldom(0.10), cell.uniform(0.15, 0.4, count), 0.0)
    spike = np.where(seldom(0.25), cell.uniform(0.04, 0.12, count), 0.0)
    bite = np.where(seldom(0.12), cell.uniform(0.08, 0.25, count), 0.0)
    cut = np.where(seldom(0.15), cell.uniform(0.75, 0.95, count), 2.0)
    values = {
        "scale": scale,
        "cell_radius": radius,
        "nucleus_ratio": ratio,
        "chromatin_grain": grain,
        "chromatin_contrast": contrast,
        "nucleus_irregularity": contour,
        "nucleus_cleft": cleft,
        "nucleolus_radius": spots,
        "nucleolus_distance": distance,
        "nucleolus_angle": angle,
        "nucleolus_pallor": np.clip(trait(0.55, 0.05, 0.08), 0.2, 0.8),
        "cell_irregularity": np.exp(trait(np.log(0.035), 0.2, 0.3)),
        "elongation": np.abs(trait(0.05, 0.02, 0.04)),
        "offset": vector(0.0, 0.025, 2),
        "nucleus_offset": vector(0.0, 0.5, 2),
        "segmentation_margin": np.clip(trait(0.01, 0.012, 0.008), -0.02, 0.08),
        "segmentation_roughness": np.exp(trait(np.log(0.008), 0.3, 0.2)),
        "flap": flap,
        "spike": spike,
        "bite": bite,
        "cut": cut,
        "haematoxylin": np.exp(trait(0.0, 0.14, 0.04)),
        "eosin": np.exp(trait(0.0, 0.3, 0.06)),
        "hue": trait(0.0, 0.034, 0.008),
        "illumination": np.exp(vector(0.05, 0.015)) * np.exp(trait(0.0, 0.08, 0.03))[:, None],
        "gradient": vector(0.04, 0.03, 2),
        "unevenness": np.exp(trait(np.log(0.06), 0.2, 0.2)),
        "focus": np.exp(trait(np.log(0.014), 0.35, 0.15)),
        "fringe": vector(0.006, 0.001, 2),
        "sensor_noise": np.exp(trait(np.log(0.012), 0.25, 0.0)),
    }
    return Cells(**{name: np.asarray(value, np.float32) for name, value in values.items()})
