"""The robustness suite: nineteen distortions of images, from slide to file, in five severities.

Eleven are the published registry for blood smears (MedMNIST-C: Di Salvo et al. 2024,
arXiv:2406.17536, medmnistc-api at 8acfd27), which gives severities at 224 pixels; lengths here,
including those of blocks, are scaled by side / 224. The other eight are additions. Every image has
its own seed, an operation draws the same numbers at each severity, and neither other images nor
their number change a bit.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from leukjax.images import artefacts, blur, geometry, jpeg, light, noise
from leukjax.images.augment import PUBLISHED_SIDE
from leukjax.images.noise import Seeds, seeds_for, uniform

SEVERITIES = (1, 2, 3, 4, 5)
VERSION = 2  # raised when an operation or a severity changes
CHUNK = 32  # images per dispatch; constant, so that one compiled function serves any number

Background = Literal["masked", "as_published"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """The input of an operation.

    Attributes:
        images: values in [0, 1].
        cell: mask of the cell.
        inside: pixels that may change: the cell ("masked"), or all of them ("as_published").
        seeds: one per image, for this distortion.
        level: severity - 1, an array, so that one compiled function serves all five.
        edge: the background, "black" or "bright".
    """

    images: Float[Array, "n h w 3"]
    cell: Bool[Array, "n h w 1"]
    inside: Bool[Array, "n h w 1"]
    seeds: Seeds
    level: Array
    edge: str

    @property
    def unit(self) -> float:
        """Pixels of these images per pixel at 224."""
        return self.images.shape[1] / PUBLISHED_SIDE

    def pick(self, values: Sequence) -> Array:
        """Returns the entry of this severity."""
        return jnp.asarray(np.array(values, np.float32))[self.level]


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A distortion of the suite.

    Attributes:
        name: of files and flags.
        severities: five arguments of the operation; lengths in pixels at 224.
        what: a short description.
        apply: the operation.
        published: whether it is in the registry of MedMNIST-C.
        masked: whether `background` matters: operations that move the cell, or draw something
            beside it, change the background in any case.
    """

    name: str
    severities: tuple
    what: str
    apply: Callable[[Scene, Sequence], Float[Array, "n h w 3"]]
    published: bool = False
    masked: bool = True


def _pixelate(scene: Scene, shares: Sequence) -> Array:
    # The number of blocks per cell is that at 224 px.
    larger = max(1, round(1 / scene.unit))
    rows, columns = (
        scene.pick(
            [
                blur.shrink_and_grow(side, max(1, int(side / scene.unit * share + 1e-6)), larger)
                for share in shares
            ]
        )
        for side in scene.images.shape[1:3]
    )
    return blur.pixelate(scene.images, rows, columns, scene.inside)


def _jpeg(scene: Scene, qualities: Sequence) -> Array:
    steps = scene.pick([jpeg.tables(quality) for quality in qualities])
    factor = max(1, round(1 / scene.unit))
    return jpeg.compress_as_if_larger(scene.images, steps, factor)


def _defocus_blur(scene: Scene, radii: Sequence) -> Array:
    reach = int(np.ceil(max(radii) * scene.unit))
    return blur.defocus(scene.images, scene.pick(radii) * scene.unit, scene.inside, reach)


def _motion_blur(scene: Scene, trails: Sequence) -> Array:
    radius, sigma = scene.pick(trails)
    angle = (uniform(scene.seeds, 0) - 0.5) * np.pi / 2
    longest = 2 * max(radius for radius, _ in trails)
    return blur.motion(scene.images, radius, sigma, angle, scene.inside, longest, scene.unit)


def _contrast(scene: Scene, factors: Sequence) -> Array:
    return light.contrast(scene.images, scene.pick(factors), scene.inside)


def _brightness(scene: Scene, factors: Sequence) -> Array:
    return light.brightness(scene.images, scene.pick(factors))


def _stain_deposit(scene: Scene, blots: Sequence) -> Array:
    most, radius = scene.pick(blots)
    limit = max(number for number, _ in blots)
    return artefacts.deposits(scene.images, scene.seeds, most, radius * scene.unit, limit)


def _bubble(scene: Scene, sizes: Sequence) -> Array:
    radius, most = scene.pick(sizes)
    limit = max(number for _, number in sizes)
    return artefacts.bubbles(
        scene.images, scene.seeds, most, radius * scene.unit, scene.unit, limit
    )


def _stain_shift(scene: Scene, amounts: Sequence) -> Array:
    # The severity is the size of the shift; its direction between the stains is random.
    direction = 2 * np.pi * uniform(scene.seeds, 0)
    amount = scene.pick(amounts)
    return light.stain(scene.images, amount * jnp.cos(direction), amount * jnp.sin(direction))


def _uneven_light(scene: Scene, slopes: Sequence) -> Array:
    return light.illuminate(scene.images, scene.pick(slopes), 2 * np.pi * uniform(scene.seeds, 0))


def _scale(scene: Scene, factors: Sequence) -> Array:
    return geometry.scale(scene.images, scene.pick(factors), scene.edge)


def _border(scene: Scene, shares: Sequence) -> Array:
    side = (4 * uniform(scene.seeds, 0)).astype(jnp.int32)
    return geometry.to_border(scene.images, scene.cell, scene.pick(shares), side, scene.edge)


_SUITE = (
    Distortion("pixelate", (0.6, 0.5, 0.4, 0.3, 0.25), "shrunk to this share at 224 px and back",
               _pixelate, published=True),
    Distortion("jpeg", (50, 30, 15, 10, 7), "JPEG of this quality", _jpeg, published=True),
    Distortion("defocus_blur", (2, 3, 4, 5, 6), "mean over a disc of this radius", _defocus_blur,
               published=True),
    Distortion("motion_blur", ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)),
               "trail of this radius and sigma, within 45 degrees of a row", _motion_blur,
               published=True),
    Distortion("brightness_up", (1.1, 1.2, 1.3, 1.35, 1.4), "times this", _brightness,
               published=True, masked=False),
    Distortion("brightness_down", (0.9, 0.8, 0.7, 0.6, 0.5), "times this", _brightness,
               published=True, masked=False),
    Distortion("contrast_up", (1.1, 1.15, 1.2, 1.25, 1.3), "times this about the mean grey",
               _contrast, published=True),
    Distortion("contrast_down", (0.9, 0.8, 0.7, 0.6, 0.5), "times this about the mean grey",
               _contrast, published=True),
    Distortion("saturate", (0.05, 0.10, 0.15, 0.17, 0.20), "this added to the saturation",
               lambda scene, amounts: light.saturate(scene.images, scene.pick(amounts)),
               published=True, masked=False),
    Distortion("stain_deposit", ((1, 8), (2, 10), (3, 12), (3, 16), (3, 20)),
               "black blots, their maximal number and mean radius", _stain_deposit,
               published=True, masked=False),
    Distortion("bubble", ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)),
               "white discs, their maximal radius and number", _bubble, published=True),
    Distortion("gaussian_noise", (0.02, 0.04, 0.06, 0.08, 0.10),
               "normal noise of this standard deviation",
               lambda scene, sigmas: noise.gaussian(
                   scene.images, scene.seeds, 0, scene.pick(sigmas))),
    Distortion("shot_noise", (500, 250, 120, 60, 30), "number of photons in a white pixel",
               lambda scene, photons: noise.shot(
                   scene.images, scene.seeds, 0, scene.pick(photons)), masked=False),
    Distortion("uneven_illumination", (0.1, 0.2, 0.3, 0.4, 0.5),
               "brighter by this at one end and darker at the other", _uneven_light,
               masked=False),
    Distortion("stain_shift", (0.1, 0.2, 0.3, 0.4, 0.5),
               "azure and eosin shifted by this (logarithm), in optical density", _stain_shift),
    Distortion("scale_up", (1.1, 1.2, 1.3, 1.45, 1.6), "magnified by this", _scale, masked=False),
    Distortion("scale_down", (0.9, 0.8, 0.7, 0.6, 0.5), "magnified by this", _scale,
               masked=False),
    Distortion("border", (0.0, 0.1, 0.2, 0.3, 0.4),
               "cell moved to the border, this share of it beyond", _border, masked=False),
    Distortion("debris", (1, 2, 4, 6, 9), "number of purple specks",
               lambda scene, counts: artefacts.debris(
                   scene.images, scene.seeds, scene.pick(counts), scene.unit, max(counts)),
               masked=False),
)  # fmt: skip
DISTORTIONS = {entry.name: entry for entry in _SUITE}


def distort(
    images: UInt8[np.ndarray, "n h w 3"],
    seeds: UInt32[np.ndarray, " n"],
    name: str,
    severity: int,
    *,
    edge: Literal["black", "bright"] = "black",
    background: Background = "masked",
    cell: Bool[np.ndarray, "n h w"] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Distorts images, each with its own seed.

    Args:
        images: RGB.
        seeds: of the images; `seeds_of` makes them from names.
        name: a key of `DISTORTIONS`.
        severity: 1 to 5; 0 = unchanged.
        edge: background of the data, `Dataset.background`.
        background: "masked": on black only the cell changes, as if it were segmented afterwards.
            "as_published": all pixels change. On bright backgrounds there is no difference.
        cell: masks of the cells; None = pixels that are not exactly black; on bright backgrounds
            the whole image. There only `border` needs them.

    Raises:
        ValueError: no such distortion or severity.
    """
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity {severity} is not in 0..5")
    if name not in DISTORTIONS:
        raise ValueError(f"unknown distortion {name!r}; one of {', '.join(DISTORTIONS)}")
    distortion = DISTORTIONS[name]
    if severity == 0 or not len(images):
        return images.copy()
    if cell is None:
        whole = np.ones(images.shape[:3], bool)
        cell = (images != 0).any(axis=-1) if edge == "black" else whole
    result = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(images)))
        padded = np.resize(rows, CHUNK)
        done = _distort(
            images[padded],
            np.asarray(seeds, np.uint32)[padded],
            cell[padded],
            np.int32(severity - 1),
            name=distortion.name,
            edge=edge,
            masked=background == "masked" and edge == "black",
        )
        result[rows] = np.asarray(done)[: len(rows)]
    return result


@functools.partial(jax.jit, static_argnames=("name", "edge", "masked"))
def _distort(images, seeds, cell, level, *, name: str, edge: str, masked: bool):
    distortion = DISTORTIONS[name]
    cell = cell[..., None]
    inside = cell if masked else jnp.ones_like(cell)
    scene = Scene(
        images=images.astype(jnp.float32) / 255,
        cell=cell,
        inside=inside,
        seeds=seeds_for(zlib.crc32(name.encode()), seeds),
        level=level,
        edge=edge,
    )
    changed = distortion.apply(scene, distortion.severities)
    if distortion.masked:
        changed = jnp.where(inside, changed, scene.images)
    return jnp.round(255 * jnp.clip(changed, 0, 1)).astype(jnp.uint8)


def seeds_of(ids: Sequence[str]) -> UInt32[np.ndarray, " n"]:
    """Returns a seed for each image from its id, independent of the other images."""
    return np.array([zlib.crc32(str(name).encode()) for name in ids], np.uint32)
