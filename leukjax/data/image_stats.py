"""Measurements of one image: foreground, area, bounding box, perceptual hash, shortcuts."""

import dataclasses
import hashlib
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

_SAMPLE = 24


def pixel_digest(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns a hex SHA-256 of shape and RGB pixels: equal for equal images of any encoding."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def foreground(image: UInt8[np.ndarray, "h w 3"], background: str) -> Bool[np.ndarray, "h w"]:
    """Returns the mask of the cell.

    Args:
      image: RGB.
      background: "black": every pixel that is not exactly black. "bright": every pixel whose grey
        level is at most Otsu's threshold (Otsu 1979, doi 10.1109/TSMC.1979.4310076), since a cell
        is darker than the field around it.
    """
    if background == "black":
        return (image[..., 0] | image[..., 1] | image[..., 2]) != 0
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, bool)
    return grey <= threshold


def find_background(images: Iterable[UInt8[np.ndarray, "h w 3"]]) -> tuple[str, float]:
    """Returns "black" or "bright", and the share of exactly black pixels in the images' borders."""
    shares = []
    for image in images:
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        shares.append(float((border == 0).all(axis=1).mean()))
    share = float(np.mean(shares)) if shares else 0.0
    return ("black" if share > 0.5 else "bright"), share


def sample_rows(count: int) -> list[int]:
    """Returns evenly spaced rows: enough to tell a black background, few enough to read often."""
    return np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int)).tolist()


def box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Returns the bounding box (top, bottom, left, right), ends exclusive; all if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def perceptual_hash(image: UInt8[np.ndarray, "h w 3"]) -> int:
    """Returns a 64-bit hash that changes little if an image is re-encoded, scaled or brightened.

    Its bits are the signs, relative to their median, of the 8 x 8 lowest coefficients that vary
    along both axes, of the cosine transform of the grey image shrunk to 32 x 32 (Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions"). An image without
    structure gives 0.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of one image: columns of the manifest, and the longer side of the cell."""

    pixels: str
    phash: int
    area: float
    side: int


def measure(image: UInt8[np.ndarray, "h w 3"], background: str) -> Measured:
    """Returns the measurements of an image; `background` as in `foreground`.

    On black only the bounding box of the cell is hashed, or all centred cells would look alike. On
    a bright background the threshold depends on the encoding, so the whole image is hashed.
    """
    mask = foreground(image, background)
    top, bottom, left, right = box(mask)
    hashed = image[top:bottom, left:right] if background == "black" else image
    return Measured(
        pixels=pixel_digest(image),
        phash=perceptual_hash(hashed),
        area=float(np.float32(mask.mean())),
        side=max(bottom - top, right - left),
    )


def shortcut_numbers(image: UInt8[np.ndarray, "h w 3"], background: str) -> dict[str, list[float]]:
    """Returns numbers that carry no information on disease; `background` as in `foreground`.

    Returns:
      "area": share of the image that is cell. "brightness": mean grey of the cell. "colour": mean
      red, green and blue of the cell. "shape": height, width and their ratio of the box around it.
      "border": mean grey of the outermost pixels, and the share that is exactly black.
    """
    mask = foreground(image, background)
    inside = image[mask] if mask.any() else image.reshape(-1, 3)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    edge = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    top, bottom, left, right = box(mask)
    height, width = bottom - top, right - left
    return {
        "area": [float(mask.mean())],
        "brightness": [float(grey[mask].mean() if mask.any() else grey.mean())],
        "colour": inside.mean(axis=0).tolist(),
        "shape": [height, width, height / width],
        "border": [float(edge.mean()), float((edge == 0).mean())],
    }
