"""Draws a folder with the names and the duplicates of C-NMC's training part, in small pictures."""

import csv
import struct
from pathlib import Path

import numpy as np

SIDE = 48


def write_tree(listing: Path, root: Path) -> int:
    """Writes every training image of a listing (path, bytes, sha256) below `root`.

    Files are byte-identical where the listed digests are equal, and different elsewhere: the
    picture is drawn from the digest. Cells of class "all" are larger and darker by trend, so that
    there is something to learn.

    Returns:
      The number of files.
    """
    with open(listing, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("C-NMC_training")]
    for row in rows:
        path = root / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bitmap(_draw(row["sha256"], leukaemic=path.parent.name == "all")))
    return len(rows)


def _draw(digest: str, leukaemic: bool) -> np.ndarray:
    generator = np.random.default_rng(int(digest, 16))
    y, x = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    radius = generator.normal(0.5 if leukaemic else 0.4, 0.08)
    texture = generator.integers(0, 90, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    colour = np.array([110, 60, 140]) + generator.normal(-15 if leukaemic else 15, 15)
    image = (colour + texture).clip(1, 255).astype(np.uint8)
    image[np.hypot(x, y) > radius] = 0
    return image


def _bitmap(image: np.ndarray) -> bytes:
    """A 24-bit bottom-up BMP, as the official files are; the side is a multiple of four."""
    pixels = image[::-1, :, ::-1].tobytes()
    header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return header + info + pixels
