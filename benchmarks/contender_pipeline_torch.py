"""PyTorch's DataLoader doing what contender_pipeline.py does; run by input_pipeline.py."""

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import serve
from measured import cpu_seconds, processor, versions
from torchvision.transforms import v2


class Images(torch.utils.data.Dataset):
    """The same noise, as PNG files (decoded every time) or as one array in memory."""

    def __init__(self, spec):
        size, count = spec["image_size"], spec["images"]
        random = np.random.default_rng(0)
        self.pixels = random.integers(0, 256, (count, size, size, 3), np.uint8)
        self.files = []
        if spec["source"] == "png":
            folder = Path(spec["folder"]) / f"png-{count}-{size}"
            folder.mkdir(parents=True, exist_ok=True)
            self.files = [str(folder / f"{row}.png") for row in range(count)]
            for file, image in zip(self.files, self.pixels, strict=True):
                if not Path(file).exists():
                    cv2.imwrite(file, image)
        self.transform = None
        if spec["augmented"]:
            chosen = spec["augment"]
            self.transform = v2.Compose(
                [
                    v2.RandomHorizontalFlip(),
                    v2.RandomVerticalFlip(),
                    v2.RandomAffine(
                        chosen["rotate"],
                        scale=(1 / (1 + chosen["zoom"]), 1 + chosen["zoom"]),
                        interpolation=v2.InterpolationMode.BILINEAR,
                    ),
                    v2.ColorJitter(chosen["brightness"], chosen["contrast"]),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize([0.5] * 3, [1.0] * 3),
                ]
            )

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, row):
        if self.files:
            image = cv2.cvtColor(cv2.imread(self.files[row]), cv2.COLOR_BGR2RGB)
        else:
            image = self.pixels[row]
        image = torch.from_numpy(image).permute(2, 0, 1)
        return (self.transform(image) if self.transform else image), row % 2


def prepare(spec):
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        Images(spec),
        batch_size=spec["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=spec["workers"],
        persistent_workers=spec["workers"] > 0,
    )

    def endless():
        while True:
            yield from loader

    feed = endless()

    def some(seconds):
        began, used, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() - began < seconds:
            next(feed)
            count += spec["batch"]
        return {
            "images_per_second": count / (time.perf_counter() - began),
            "images_per_core_second": count / max(1e-3, cpu_seconds() - used),
        }

    some(1.0)
    return {"device": processor(), "versions": versions("torch", "torchvision")}, lambda: some(
        spec["seconds"]
    )


if __name__ == "__main__":
    serve(prepare)
