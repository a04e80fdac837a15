"""A small data set for the tests of records and batches; run as a script it prepares itself."""

import hashlib
import sys
import time

import numpy as np
from ml_collections import ConfigDict

from leukjax.data.dataset import Dataset
from leukjax.data.records import Records
from leukjax.data.source import Entry


class Tiny(Dataset):
    """Discs of noise on black, seeded by the id of the entry; `delay` seconds per image."""

    def __init__(self, *, side: int = 20, delay: float = 0.0, **fields) -> None:
        super().__init__(**fields)
        self.side, self.delay = side, delay

    def image(self, entry: Entry) -> np.ndarray:
        time.sleep(self.delay)
        seed = int.from_bytes(hashlib.sha256(entry.id.encode()).digest()[:8], "big")
        image = np.random.default_rng(seed).integers(1, 255, (self.side, self.side, 3), np.uint8)
        y, x = np.ogrid[: self.side, : self.side]
        image[np.hypot(y - self.side / 2, x - self.side / 2) > self.side / 3] = 0
        return image

    def stat_key(self) -> str:
        return hashlib.sha256(repr((self.entries, self.side)).encode()).hexdigest()


def tiny_source(count: int, side: int = 20, delay: float = 0.0) -> Tiny:
    """`count` images of count // 4 subjects, a third of them in the second class."""
    subjects = max(count // 4, 2)
    entries = [
        Entry(f"cell{i}", f"cell{i}.bmp", int(i % subjects % 3 == 0), f"s{i % subjects}")
        for i in range(count)
    ]
    return Tiny(
        name="tiny",
        classes=("hem", "all"),
        positive="all",
        entries=entries,
        side=side,
        delay=delay,
        notes=["a note"],
    )


def settings(cache_dir: object, **changes: object) -> ConfigDict:
    """The fields of a config's `data` section that preparation reads."""
    fields: dict = {
        "name": "tiny",
        "cache_dir": str(cache_dir),
        "image_size": 16,
        "crop": 0,
        "denoise": "none",
        "bad_images": "error",
        "threads": 2,
    }
    return ConfigDict(fields | changes)


def tiny_records(cache_dir: object, source: Tiny, image_size: int = 16, **changes) -> Records:
    """Prepared records of a tiny data set."""
    return source.prepare(image_size, **{"cache_dir": str(cache_dir), "threads": 2} | changes)


if __name__ == "__main__":
    folder, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    print(tiny_records(folder, tiny_source(number, delay=seconds)).checksum)
