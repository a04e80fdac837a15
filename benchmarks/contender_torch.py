"""Contenders in PyTorch: timm's models, onnxruntime, one convolution, and a DataLoader.

Runs in the peers' environment (``benchmarks/peers.sh``). timm's models are channels-last, eager or
compiled, and fed from the host; timm has no plain CNN of the literature, so that one is written
here as in `leukjax.models.cnn`.
"""

import contextlib
import io
import itertools
from pathlib import Path
from typing import Any

import torch
from harness import (
    Round,
    host_memory,
    paced,
    processor,
    repeated,
    serve,
    versions,
    with_memory,
)

MODELS = {
    "resnet50": "resnet50",
    "hybrid": "vit_small_r26_s32_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
}
LAST = {"memory_format": torch.channels_last}


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Builds the contender that ``spec["task"]`` names, compiles, warms up."""
    torch.manual_seed(0)
    tasks = {"onnx": onnx, "convolution": convolution, "pipeline": pipeline}
    return tasks.get(spec["task"], network)(spec)


def network(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """A training step or a prediction of a model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(spec["model"], spec["image_size"]).to(device, **LAST)
    model.train(spec["task"] == "train")
    shape = (spec["batch"], 3, spec["image_size"], spec["image_size"])
    images = torch.randn(shape).contiguous(**LAST)
    labels = torch.randint(0, 2, (spec["batch"],))
    forward = torch.compile(model) if spec.get("compiled") else model

    def precision() -> Any:
        if spec["precision"] == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    if spec["task"] == "train":
        # The fused Adam is not the default; the plain one makes a step slower by a tenth here.
        adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

        def once() -> torch.Tensor:
            adam.zero_grad(set_to_none=True)
            with precision():
                logits = forward(images.to(device, non_blocking=True))
                loss = torch.nn.functional.cross_entropy(logits.float(), labels.to(device))
            loss.backward()
            adam.step()
            return loss
    else:

        def once() -> torch.Tensor:
            with torch.inference_mode(), precision():
                return forward(images.to(device, non_blocking=True))

    def memory() -> int:
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else host_memory()

    about = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": versions("torch", "timm"),
    }
    wait_each = spec.get("wait_each", False)
    run = repeated(once, lambda result: result.detach().cpu(), spec["seconds"], wait_each)
    return about, with_memory(run, memory)


def onnx(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """The same model exported to ONNX; onnxruntime folds BatchNorm itself."""
    import onnxruntime

    if spec["precision"] != "float32":
        raise ValueError("predicts in float32 only")
    model = build(spec["model"], spec["image_size"]).eval()
    images = torch.randn(spec["batch"], 3, spec["image_size"], spec["image_size"])
    file = io.BytesIO()
    torch.onnx.export(model, (images,), file, input_names=["images"], dynamo=False)
    session = onnxruntime.InferenceSession(
        file.getvalue(), providers=onnxruntime.get_available_providers()
    )
    inputs = {"images": images.numpy()}
    about = {"device": session.get_providers()[0], "versions": versions("onnxruntime", "torch")}
    run = repeated(lambda: session.run(None, inputs), lambda _: None, spec["seconds"])
    return about, with_memory(run, host_memory)


def build(name: str, image_size: int) -> torch.nn.Module:
    """Returns a model with two classes."""
    if name == "cnn":
        return cnn(image_size)
    import timm

    sizes = {} if name == "resnet50" else {"img_size": image_size}
    return timm.create_model(MODELS[name], num_classes=2, **sizes)


def cnn(image_size: int) -> torch.nn.Module:
    """Returns four stages of convolution, BatchNorm, ReLU and pooling, then two dense layers."""
    layers: list[torch.nn.Module] = []
    channels = (3, 32, 64, 128, 256)
    for inputs, outputs in itertools.pairwise(channels):
        layers += [
            torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
    flat = channels[-1] * (image_size // 16) ** 2
    head = [torch.nn.Flatten(), torch.nn.Linear(flat, 128), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, *head, torch.nn.Linear(128, 2))


def convolution(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """One 3x3 convolution, forward or both gradients (see convolutions.py)."""
    channels = spec["channels"]
    shape = (spec["batch"], channels, spec["side"], spec["side"])
    x, gradient = (torch.randn(shape).contiguous(**LAST) for _ in range(2))
    kernel = torch.randn(channels, channels, 3, 3).contiguous(**LAST)

    def forward() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(x, kernel, padding=1)

    def gradients() -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, True, False)
        )

    once = forward if spec["pass"] == "forward" else gradients
    about = {"device": "cpu", "versions": versions("torch")}
    return about, repeated(once, lambda result: result, spec["seconds"], wait_each=True)


class Images(torch.utils.data.Dataset):
    """Noise as PNG files, decoded at each access, or as one array in memory."""

    def __init__(self, spec: dict[str, Any]):
        import cv2
        import numpy as np

        self.cv2, size, count = cv2, spec["image_size"], spec["images"]
        self.images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
        self.files: list[str] = []
        if spec["source"] == "png":
            folder = Path(spec["folder"]) / f"png-{count}-{size}"
            folder.mkdir(parents=True, exist_ok=True)
            self.files = [str(folder / f"{row}.png") for row in range(count)]
            for file, image in zip(self.files, self.images, strict=True):
                if not Path(file).exists():
                    cv2.imwrite(file, image)
        self.transform = transforms(spec["augment"]) if spec["augmented"] else lambda image: image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Any:
        image = self.images[row]
        if self.files:
            image = self.cv2.cvtColor(self.cv2.imread(self.files[row]), self.cv2.COLOR_BGR2RGB)
        return self.transform(torch.from_numpy(image).permute(2, 0, 1)), row % 2


def transforms(options: dict[str, Any]) -> Any:
    """Returns torchvision's form of the augmentation of input_pipeline.py."""
    from torchvision.transforms import v2

    zoom = 1 + options["zoom"]
    bilinear = v2.InterpolationMode.BILINEAR
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine(options["rotate"], scale=(1 / zoom, zoom), interpolation=bilinear),
            v2.ColorJitter(options["brightness"], options["contrast"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [1.0] * 3),
        ]
    )


def pipeline(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """PyTorch's DataLoader with the work of input_pipeline.py."""
    torch.set_num_threads(1)
    dataset = Images(spec)
    dataset.cv2.setNumThreads(0)
    workers = spec["workers"]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=spec["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches = (batch for _ in iter(int, 1) for batch in loader)
    about = {"device": processor(), "versions": versions("torch", "torchvision")}
    return about, paced(lambda: next(batches), spec["batch"], spec["seconds"])


if __name__ == "__main__":
    serve(prepare)
