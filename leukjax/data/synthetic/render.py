"""Renders pixels and masks of blood cells from their parameters.

Contours are Fourier series of the angle; chromatin is band-passed noise; colour follows the law of
Beer and Lambert (light falls exponentially with the amount of dye); focus and colour fringes act
in the Fourier domain; finally the simulated segmentation cuts the cell out on exact black.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float32, UInt8

ANGLES = 256  # samples of a contour

# Colours of C-NMC, measured on the 44 cells at hand: the light where there is no cell (about
# 108, 80, 90 in red, green, blue) and what nucleus and cytoplasm take from it.
LIGHT = np.array([108, 80, 90], np.float32)
NUCLEUS = np.array([0.46, 1.10, 0.14], np.float32)
CYTOPLASM = np.array([0.32, 0.52, -0.02], np.float32)
CHROMATIN = np.array([1.00, 1.10, 0.35], np.float32)  # light gaps in it look reddish
HUE = np.array([1.00, 0.20, -0.60], np.float32)  # from reddish to bluish purple
EOSIN = np.array([-0.05, 0.08, 0.05], np.float32)
RIM = np.array([0.16, 0.00, -0.06], np.float32)  # the nucleus is bluer where it is thin


@dataclass(frozen=True)
class Cells:
    """Parameters of n cells; lengths in half frames, unless relative to something named."""

    scale: Float32[np.ndarray, " n"]  # magnification; already in the lengths
    cell_radius: Float32[np.ndarray, " n"]  # of the circle about which the contour varies
    nucleus_ratio: Float32[np.ndarray, " n"]  # area of the nucleus / area of the cell
    chromatin_grain: Float32[np.ndarray, " n"]  # length of the texture
    chromatin_contrast: Float32[np.ndarray, " n"]  # its standard deviation, optical density
    nucleus_irregularity: Float32[np.ndarray, " n"]  # deviation of the contour / radius
    nucleus_cleft: Float32[np.ndarray, " n"]  # depth of an indentation / radius; 0 = none
    nucleolus_radius: Float32[np.ndarray, "n k"]  # / radius of the nucleus; 0 = none
    nucleolus_distance: Float32[np.ndarray, "n k"]  # from its centre / its radius
    nucleolus_angle: Float32[np.ndarray, "n k"]
    nucleolus_pallor: Float32[np.ndarray, " n"]  # share of the dye that is missing there
    cell_irregularity: Float32[np.ndarray, " n"]
    elongation: Float32[np.ndarray, " n"]
    offset: Float32[np.ndarray, "n 2"]  # centre of the cell
    nucleus_offset: Float32[np.ndarray, "n 2"]  # centre of the nucleus / width of the cytoplasm
    segmentation_margin: Float32[np.ndarray, " n"]  # kept around the cell
    segmentation_roughness: Float32[np.ndarray, " n"]
    flap: Float32[np.ndarray, " n"]  # length of what was kept of the neighbourhood; 0 = none
    spike: Float32[np.ndarray, " n"]  # the same, narrow
    bite: Float32[np.ndarray, " n"]  # depth of a piece that is missing; 0 = none
    cut: Float32[np.ndarray, " n"]  # where a straight cut runs / radius; 2 = nowhere
    haematoxylin: Float32[np.ndarray, " n"]  # amount of dye
    eosin: Float32[np.ndarray, " n"]
    hue: Float32[np.ndarray, " n"]
    illumination: Float32[np.ndarray, "n 3"]
    gradient: Float32[np.ndarray, "n 2"]  # of the illumination, a half frame
    unevenness: Float32[np.ndarray, " n"]  # slow variation of the dye, standard deviation
    focus: Float32[np.ndarray, " n"]  # standard deviation of the blur
    fringe: Float32[np.ndarray, "n 2"]  # shift of red against blue
    sensor_noise: Float32[np.ndarray, " n"]  # / light

    def __len__(self) -> int:
        return len(self.scale)


def render(
    cells: Cells, rng: np.random.Generator, size: int
) -> tuple[
    UInt8[np.ndarray, "n size size 3"],
    Bool[np.ndarray, "n size size"],
    Bool[np.ndarray, "n size size"],
    Bool[np.ndarray, "n size size"],
]:
    """Returns images and masks of cells.

    Returns:
        Images, and the masks of the pixels that are not black, of the nuclei and of the nucleoli,
        each within the previous one.
    """
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x = axis[None, None, :] - cells.offset[:, 0, None, None]
    y = axis[None, :, None] - cells.offset[:, 1, None, None]
    pixel = 2 / size

    outline = _contour(rng, cells.cell_irregularity, cells.elongation)
    outline = cells.cell_radius[:, None] * outline
    kept = _segmentation(rng, cells, outline)
    ratio = np.sqrt(cells.nucleus_ratio)
    nucleus_radius = cells.cell_radius * ratio
    shift = cells.nucleus_offset * (cells.cell_radius - nucleus_radius)[:, None]
    # The nucleus follows the outline of the cell in part.
    membrane = _contour(rng, cells.nucleus_irregularity, 0.5 * cells.elongation)
    membrane = membrane * outline * ratio[:, None] * _cleft(rng, cells.nucleus_cleft)

    angle, rho = _polar(x, y)
    to_outline = _at(outline, angle) - rho
    to_kept = _at(kept, angle) - rho
    nx, ny = x - shift[:, 0, None, None], y - shift[:, 1, None, None]
    angle, rho = _polar(nx, ny)
    # A nucleus stays in its cell, with at least half a pixel of cytoplasm around it.
    to_membrane = np.minimum(_at(membrane, angle) - rho, to_outline - 0.5 * pixel)

    in_cell, in_nucleus = _soft(to_outline, pixel), _soft(to_membrane, 0.05)
    mask = (to_kept > 0) & _cut(rng, cells, x, y)
    nucleus = mask & (to_membrane > 0)
    spots, nucleoli = _nucleoli(cells, nx, ny, nucleus_radius)

    coarse = _noise(rng, cells.chromatin_grain, size)
    fine = _noise(rng, 0.45 * cells.chromatin_grain, size)
    clumps = 0.8 * np.tanh(coarse) / 0.63 + 0.5 * fine
    slow = cells.unevenness[:, None, None] * _noise(rng, 4 * cells.chromatin_grain + 0.1, size)
    amount = cells.haematoxylin[:, None, None] * (1 + slow) * (1 - spots)
    texture = cells.chromatin_contrast[:, None, None] * clumps * (1 - 0.7 * spots)
    edge = np.exp(-np.square(np.maximum(to_membrane, 0) / 0.08))
    plasma = cells.haematoxylin[:, None, None] * (1 + 0.5 * slow)

    density = in_nucleus[..., None] * (
        amount[..., None] * _colour(NUCLEUS, cells.hue, cells.eosin)
        + texture[..., None] * CHROMATIN
        + edge[..., None] * RIM
    )
    density += (in_cell * (1 - in_nucleus) * plasma)[..., None] * _colour(
        CYTOPLASM, cells.hue, cells.eosin
    )
    light = LIGHT * cells.illumination
    slope = cells.gradient[:, 0, None, None] * x + cells.gradient[:, 1, None, None] * y
    image = light[:, None, None] * (1 + slope[..., None]) * np.exp(-density)
    image = _lens(image, cells.focus, cells.fringe)
    noise = rng.standard_normal(image.shape, np.float32)
    image += cells.sensor_noise[:, None, None, None] * LIGHT * noise
    # At least 1, so that exact black is what the segmentation removed.
    image = np.clip(np.rint(image), 1, 255).astype(np.uint8) * mask[..., None]
    return image, mask, nucleus, nucleoli & nucleus


def _colour(dye: np.ndarray, hue: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Returns the colour of a dye in the stain of each cell: float32[n, 1, 1, 3]."""
    colour = dye + hue[:, None] * HUE + (eosin[:, None] - 1) * EOSIN
    return colour[:, None, None].astype(np.float32)


def _polar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angle in samples of a contour, and distance."""
    return np.arctan2(y, x) * (ANGLES / (2 * np.pi)), np.sqrt(x * x + y * y)


def _at(contour: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Returns the radius of a contour at the angle of each pixel, interpolated linearly."""
    below = np.floor(angle)
    share = angle - below
    index = below.astype(np.int32) % ANGLES
    rows = np.arange(len(contour))[:, None, None]
    return contour[rows, index] * (1 - share) + contour[rows, (index + 1) % ANGLES] * share


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 inside, 0 outside, with a ramp of a pixel or so between."""
    return np.clip(distance / width + 0.5, 0, 1)


def _series(
    rng: np.random.Generator, deviation: np.ndarray, first: int, last: int, decay: float
) -> np.ndarray:
    """Random periodic curves float32[n, ANGLES] of harmonics `first` to `last`."""
    order = np.arange(ANGLES // 2 + 1)
    power = np.where((order >= first) & (order <= last), np.maximum(order, 1.0) ** -decay, 0.0)
    power *= ANGLES / np.sqrt(2 * np.square(power).sum())
    shape = (len(deviation), len(order))
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    curve = scipy.fft.irfft(noise * power / np.sqrt(2), n=ANGLES)
    return (deviation[:, None] * curve).astype(np.float32)


def _contour(
    rng: np.random.Generator, irregularity: np.ndarray, elongation: np.ndarray
) -> np.ndarray:
    """Contours about the unit circle."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    phase = rng.uniform(0, 2 * np.pi, (len(irregularity), 1))
    oval = elongation[:, None] * np.cos(2 * angle + phase)
    return (1 + oval + _series(rng, irregularity, 2, 14, 1.1)).astype(np.float32)


def _bump(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """A bump of height 1 at a random angle, its width (radians) in [low, high]."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    centre = rng.uniform(0, 2 * np.pi, (count, 1))
    apart = np.abs((angle - centre + np.pi) % (2 * np.pi) - np.pi)
    width = rng.uniform(low, high, (count, 1))
    return np.exp(-np.square(apart / width)).astype(np.float32)


def _cleft(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    return 1 - depth[:, None] * _bump(rng, len(depth), 0.15, 0.35)


def _segmentation(rng: np.random.Generator, cells: Cells, outline: np.ndarray) -> np.ndarray:
    """The contour that an imperfect segmentation cut along."""
    rough = _series(rng, cells.segmentation_roughness, 5, 24, 0.8)
    kept = outline + cells.segmentation_margin[:, None] + rough
    kept += cells.flap[:, None] * _bump(rng, len(cells), 0.12, 0.3)
    kept += cells.spike[:, None] * _bump(rng, len(cells), 0.05, 0.12)
    kept -= cells.bite[:, None] * _bump(rng, len(cells), 0.1, 0.35)
    return kept


def _cut(rng: np.random.Generator, cells: Cells, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the mask that a straight cut along an image axis leaves."""
    turn = rng.integers(0, 4, len(cells))
    along = np.where((turn % 2 == 0)[:, None, None], x, y)
    sign = np.where(turn < 2, 1, -1)[:, None, None]
    return sign * along < (cells.cut * cells.cell_radius)[:, None, None]


def _nucleoli(
    cells: Cells, x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of dye that is missing (float32[n, size, size]), and the mask of the nucleoli."""
    pale = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    inside = np.zeros(pale.shape, bool)
    for k in range(cells.nucleolus_radius.shape[1]):
        distance = cells.nucleolus_distance[:, k] * radius
        cx = (distance * np.cos(cells.nucleolus_angle[:, k]))[:, None, None]
        cy = (distance * np.sin(cells.nucleolus_angle[:, k]))[:, None, None]
        extent = (cells.nucleolus_radius[:, k] * radius)[:, None, None]
        square = np.square(x - cx) + np.square(y - cy)
        # Half of the pallor remains at the edge; no edge is sharp.
        profile = np.exp(-np.log(2) * np.square(square / np.square(np.maximum(extent, 1e-3))))
        pale = np.maximum(pale, np.where(extent > 0, profile, 0))
        inside |= square < np.square(extent)
    return pale * cells.nucleolus_pallor[:, None, None], inside


def _frequencies(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Angular frequencies (radians a half frame) of a real 2-D transform, down and across."""
    step = 2 * np.pi * size / 2
    down = (scipy.fft.fftfreq(size) * step).astype(np.float32)
    across = (scipy.fft.rfftfreq(size) * step).astype(np.float32)
    return down[:, None], across[None, :]


def _noise(rng: np.random.Generator, length: np.ndarray, size: int) -> np.ndarray:
    """Smooth noise of mean 0 and variance 1, its length scale given for each cell."""
    down, across = _frequencies(size)
    square = (down**2 + across**2) * np.square(length)[:, None, None]
    band = np.exp(-0.5 * square) * (1 - np.exp(-4.5 * square))
    spectrum = scipy.fft.rfft2(rng.standard_normal((len(length), size, size), np.float32))
    noise = scipy.fft.irfft2(spectrum * band, s=(size, size))
    return noise / (noise.std(axis=(1, 2), keepdims=True) + 1e-6)


def _lens(image: np.ndarray, focus: np.ndarray, fringe: np.ndarray) -> np.ndarray:
    """Blurs each cell by its focus, and shifts red and blue against each other."""
    size = image.shape[1]
    down, across = _frequencies(size)
    blur = np.exp(-0.5 * (down**2 + across**2) * np.square(focus)[:, None, None])
    phase = across * fringe[:, 0, None, None] + down * fringe[:, 1, None, None]
    shift = np.exp(1j * phase)
    spectrum = scipy.fft.rfft2(image, axes=(1, 2)) * blur[..., None]
    spectrum[..., 0] *= shift
    spectrum[..., 2] *= shift.conj()
    return scipy.fft.irfft2(spectrum, s=(size, size), axes=(1, 2)).astype(np.float32)
