"""Contender: timm's models in PyTorch, channels-last, eager or compiled, fed from the host.

Runs in the peers' environment (``benchmarks/peers.sh``). timm has no plain CNN of the literature:
that one is written here, layer by layer as in `leukjax.models.cnn`.
"""

import contextlib
from typing import Any

import timm
import torch
from harness import Round, host_memory, repeated, serve, with_memory

MODELS = {"resnet50": "resnet50", "hybrid": "vit_small_r26_s32_224"}


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Compile where asked, warm up."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = spec["task"] == "train"
    model = build(spec["model"], spec["image_size"]).to(device, memory_format=torch.channels_last)
    model.train(train)
    shape = (spec["batch"], 3, spec["image_size"], spec["image_size"])
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (spec["batch"],))
    forward = torch.compile(model) if spec.get("compiled") else model

    def precision() -> Any:
        if spec["precision"] == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    if train:
        # The fused Adam, which few ask for: the plain one is slower by a tenth of a step here.
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

    def wait(result: torch.Tensor) -> None:
        result.detach().float().cpu()

    def memory() -> int:
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else host_memory()

    about = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": f"torch {torch.__version__}, timm {timm.__version__}",
    }
    return about, with_memory(
        repeated(once, wait, spec["seconds"], spec.get("wait_each", False)), memory
    )


def build(name: str, image_size: int) -> torch.nn.Module:
    """A model with two classes."""
    if name == "cnn":
        return cnn(image_size)
    sizes = {"img_size": image_size} if name == "hybrid" else {}
    return timm.create_model(MODELS[name], num_classes=2, **sizes)


def cnn(image_size: int) -> torch.nn.Module:
    """Four stages of convolution, BatchNorm, ReLU and pooling, then two dense layers."""
    layers: list[torch.nn.Module] = []
    inputs = 3
    for stage in range(4):
        outputs = 32 * 2**stage
        layers += [
            torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
        inputs = outputs
    flat = inputs * (image_size // 16) ** 2
    head = [torch.nn.Flatten(), torch.nn.Linear(flat, 128), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, *head, torch.nn.Linear(128, 2))


if __name__ == "__main__":
    serve(prepare)
