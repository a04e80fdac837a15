"""A small data set for the tests of records and batches; run as a script it prepares itself."""

import hashlib
import sys
import time
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from leukjax.data.builder import Builder
from leukjax.data.dataset import Entry, Source
from leukjax.data.records import Records, prepare_source


@dataclass(kw_only=True)
class TinySource(Source):
    """Discs of noise on black, drawn from the entry's id; `delay` seconds an image."""

    side: int = 20
    delay: float = 0.0

    def image(self, entry: Entry) -> np.ndarray:
        time.sleep(self.delay)
        seed = int.from_bytes(hashlib.sha256(entry.id.encode()).digest()[:8], "big")
        image = np.random.default_rng(seed).integers(1, 255, (self.side, self.side, 3), np.uint8)
        y, x = np.ogrid[: self.side, : self.side]
        image[np.hypot(y - self.side / 2, x - self.side / 2) > self.side / 3] = 0
        return image

    def read(self, entry: Entry) -> bytes:
        return self.image(entry).tobytes()

    def stat_key(self) -> str:
        return hashlib.sha256(repr((self.entries, self.side)).encode()).hexdigest()


class Tiny(Builder):
    """Noise."""

    @staticmethod
    def make_source(data: ConfigDict) -> Source:
        return tiny_source(24)


def tiny_source(count: int, side: int = 20, delay: float = 0.0) -> TinySource:
    """`count` images of count // 4 subjects, a third of them in the second class."""
    subjects = max(count // 4, 2)
    entries = [
        Entry(f"cell{i}", f"cell{i}.bmp", int(i % subjects % 3 == 0), f"s{i % subjects}")
        for i in range(count)
    ]
    return TinySource(
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


def tiny_records(cache_dir: object, source: TinySource, **changes: object) -> Records:
    """Prepared records of a tiny source."""
    return prepare_source(settings(cache_dir, **changes), source, Tiny)


if __name__ == "__main__":
    folder, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    print(tiny_records(folder, tiny_source(number, delay=seconds)).checksum)
