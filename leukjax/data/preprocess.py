"""Preprocessing of a decoded image of any size: crop, denoise, pad, resize."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from leukjax.errors import UserError

DENOISERS = ("none", "median", "gaussian", "bilateral", "nlm")

# An image whose square has more pixels is shrunk first: a strip of 10,000 x 8 pixels would be
# padded to 300 MB. leukjax.export.predict_template repeats both numbers.
MAX_PADDED_PIXELS = 50_000_000
_SHRUNK_SIDE = 4096

# The farthest pixel that a denoiser reads: half of NLM's search window and of its template.
_REACH = 14


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The arguments of `process` that are the same for all images of a data set."""

    image_size: int
    crop: int = 0
    denoise: str = "none"

    def __post_init__(self) -> None:
        check(self.denoise)
        for name in ("image_size", "crop"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < (name == "image_size"):
                raise UserError(f"data.{name}: {value} pixels is too small")

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], background: str
    ) -> UInt8[np.ndarray, "s s 3"]:
        """Returns `process` of an image."""
        return process(image, self.image_size, self.crop, self.denoise, background)

    def describe(self, sizes: Int[np.ndarray, "n 2"]) -> str:
        """Returns `describe` of images of these heights and widths."""
        return describe(sizes, self.image_size, self.crop, self.denoise)


def check(denoise: str) -> None:
    """Raises UserError if `denoise` is not the name of a denoiser."""
    if denoise not in DENOISERS:
        raise UserError(f"data.denoise: {denoise!r} is not one of {', '.join(DENOISERS)}")


def process(
    image: UInt8[np.ndarray, "h w 3"],
    image_size: int,
    crop: int = 0,
    denoise: str = "none",
    background: str = "black",
) -> UInt8[np.ndarray, "image_size image_size 3"]:
    """Crops the centre, denoises it, pads it to a square, and resizes it.

    Args:
      image: RGB, any size.
      image_size: pixels per side of the result.
      crop: side of the centre crop, in pixels of `image`; 0 = none. An image smaller than the crop
        is padded with background, so that all images of a data set keep one scale. Without a crop,
        an image with a side above 7,071 pixels is shrunk to 4,096 first.
      denoise: a name of `DENOISERS`; see `smooth`.
      background: "black" (fill with black; what is exactly black stays so) or "bright" (fill by
        repeating the border).

    Raises:
      UserError: unknown `denoise`.
    """
    check(denoise)
    image = _centre(image, crop, background) if crop else _shrunk(image, image_size)
    if denoise != "none":
        image = _denoise(image, denoise, background)
    side = max(image.shape[:2])
    return _resize(_pad(image, side, side, background), image_size, background)


def smooth(image: UInt8[np.ndarray, "h w 3"], denoise: str) -> UInt8[np.ndarray, "h w 3"]:
    """Applies one of the four denoisers, with fixed parameters, mild for cells of 100 to 400 px.

    median: 3 x 3 pixels, each channel. gaussian: 5 x 5 pixels, sigma 1. bilateral (Tomasi &
    Manduchi 1998): 7 x 7 pixels, sigma 25 grey levels and 3 pixels. nlm (non-local means, Buades
    et al. 2005, in Lab colours): strength 5, template 7 x 7, search 21 x 21 pixels.
    """
    if denoise == "median":
        return cv2.medianBlur(image, 3)
    if denoise == "gaussian":
        return cv2.GaussianBlur(image, (5, 5), 1.0)
    if denoise == "bilateral":
        return cv2.bilateralFilter(image, 7, 25.0, 3.0)
    # OpenCV converts to Lab from BGR.
    bgr = np.ascontiguousarray(image[..., ::-1])
    return cv2.fastNlMeansDenoisingColored(bgr, None, 5, 5, 7, 21)[..., ::-1]


def describe(
    sizes: Int[np.ndarray, "n 2"], image_size: int, crop: int = 0, denoise: str = "none"
) -> str:
    """Returns a sentence on what was done to images of these heights and widths."""
    sides = np.full(len(sizes), crop) if crop else sizes.max(axis=1)
    factors = image_size / sides
    parts = []
    for chosen, verb, method in (
        (factors < 1, "shrink", "area"),
        (factors > 1, "grow", "Lanczos"),
        (factors == 1, "keep their size", ""),
    ):
        if chosen.any():
            low, high = factors[chosen].min(), factors[chosen].max()
            span = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            detail = f" by {span} ({method})" if method else ""
            parts.append(f"{np.count_nonzero(chosen):,} {verb}{detail}")
    before = []
    if crop:
        before.append(f"crop to the central {crop} px")
        padded = np.count_nonzero((sizes < crop).any(axis=1))
        if padded:
            before.append(f"{padded:,} smaller images filled with background")
    elif (uneven := np.count_nonzero(sizes[:, 0] != sizes[:, 1])) > 0:
        before.append(f"{uneven:,} images padded to a square")
    if denoise != "none":
        before.append(f"{denoise} denoising")
    steps = "; ".join([*before, f"resize to {image_size} px: {', '.join(parts)}"])
    return f"preprocessing of {len(sizes):,} images: {steps}"


def window(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "p q 3"]:
    """Returns the centre crop of an image; a smaller image is returned as it is."""
    height, width = image.shape[:2]
    top, left = max(height - side, 0) // 2, max(width - side, 0) // 2
    return image[top : top + side, left : left + side]


def _centre(image: np.ndarray, crop: int, background: str) -> np.ndarray:
    return _pad(window(image, crop), crop, crop, background)


def _shrunk(image: np.ndarray, image_size: int) -> np.ndarray:
    side = max(image.shape[:2])
    wanted = max(_SHRUNK_SIDE, image_size)
    if side * side <= MAX_PADDED_PIXELS or side <= wanted:
        return image
    height, width = (max(1, round(pixels * wanted / side)) for pixels in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _pad(image: np.ndarray, height: int, width: int, background: str) -> np.ndarray:
    down, right = height - image.shape[0], width - image.shape[1]
    if not down and not right:
        return image
    top, left = down // 2, right // 2
    mode = cv2.BORDER_CONSTANT if background == "black" else cv2.BORDER_REPLICATE
    return cv2.copyMakeBorder(image, top, down - top, left, right - left, mode, value=(0, 0, 0))


def _denoise(image: np.ndarray, denoise: str, background: str) -> np.ndarray:
    if background != "black":
        return np.ascontiguousarray(smooth(np.ascontiguousarray(image), denoise))
    foreground = _foreground(image)
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    if not len(rows):
        return image
    # Nothing changes farther from the cell than the filter reaches. Four fifths of a C-NMC image
    # are black, so filtering the bounding box of the cell saves most of the time.
    top, left = max(rows[0] - _REACH, 0), max(columns[0] - _REACH, 0)
    box = np.s_[top : rows[-1] + _REACH + 1, left : columns[-1] + _REACH + 1]
    result = np.zeros_like(image)
    result[box] = smooth(np.ascontiguousarray(image[box]), denoise)
    result[~foreground] = 0
    return result


def _resize(image: np.ndarray, size: int, background: str) -> np.ndarray:
    side = image.shape[0]
    if side == size:
        return np.ascontiguousarray(image)
    if side > size:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    result = cv2.resize(image, (size, size), interpolation=cv2.INTER_LANCZOS4)
    if background == "black":
        # Lanczos overshoots: without this there would be a faint halo on the black around the cell.
        mask = _foreground(image).astype(np.uint8) * 255
        result[cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) == 0] = 0
    return result


def _foreground(image: np.ndarray) -> Bool[np.ndarray, "h w"]:
    return np.any(image, axis=2)
