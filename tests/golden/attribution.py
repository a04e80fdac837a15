"""Maps of pytorch-grad-cam, captum and plain PyTorch on weights of `fill.py`. Run by hand.

In an environment of its own (no part of leukjax needs PyTorch):

    python3 -m venv peers && peers/bin/pip install torch timm grad-cam captum numpy
    peers/bin/python tests/golden/attribution.py

Writes `attribution.npz`: for each case maps as the reference gives them, before it scales them.
"""

import sys
import types
from pathlib import Path

import fill
import numpy as np
import torch
from torch import nn

# timm needs torchvision for other things; this part of it fails where its build is not torch's.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("empty")
import timm  # noqa: E402
from captum.attr import IntegratedGradients, Occlusion  # noqa: E402
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM  # noqa: E402

CLASSES = 3
TARGETS = (2, 0)
STEPS = 32
WINDOW, STRIDE = 12, 5  # neither divides the size
CAMS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "hirescam": HiResCAM}


class CNN(nn.Module):
    """leukjax's CNN, written again: four stages, then two fully connected layers."""

    def __init__(self, width: int, size: int):
        super().__init__()
        widths = [3, *(width * 2**stage for stage in range(4))]
        for stage in range(1, 5):
            conv = nn.Conv2d(widths[stage - 1], widths[stage], 3, padding=1, bias=False)
            setattr(self, f"conv{stage}", conv)
            setattr(self, f"norm{stage}", nn.BatchNorm2d(widths[stage]))
        self.last = nn.ReLU()  # what class activation maps are taken at
        self.hidden = nn.Linear(widths[-1] * (size // 16) ** 2, 128)
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x):
        for stage in range(1, 5):
            x = getattr(self, f"norm{stage}")(getattr(self, f"conv{stage}")(x))
            x = self.last(x) if stage == 4 else torch.relu(x)
            x = torch.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # rows, columns, channels, as ours
        return self.fc(torch.relu(self.hidden(x)))


def filled(model: nn.Module) -> nn.Module:
    """The model with the numbers that the names of its parameters give."""
    state = {
        name: torch.from_numpy(fill.parameter(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    return model.eval()


class LogOdds(nn.Module):
    """Logit of each class less the logsumexp of the others."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        others = [
            torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1)
            for k in range(logits.shape[1])
        ]
        return logits - torch.stack(others, 1)


def images(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(fill.images(count, size)).permute(0, 3, 1, 2).contiguous()


def activation_maps(model: nn.Module, layer: nn.Module, x: torch.Tensor, of) -> dict:
    found = {}
    for name, method in CAMS.items():
        with method(model=of(model), target_layers=[layer]) as cam:
            targets = [lambda y, t=t: y[t] for t in TARGETS[: len(x)]]
            cam(input_tensor=x, targets=targets)
            kept = cam.activations_and_grads
            raw = cam.get_cam_image(
                x, layer, targets, kept.activations[0].numpy(), kept.gradients[0].numpy(), False
            )
        found[name] = np.maximum(raw, 0)
    return found


def pixel_maps(model: nn.Module, x: torch.Tensor, of) -> dict:
    targets = list(TARGETS[: len(x)])
    scored = of(model)
    gradients = IntegratedGradients(scored).attribute(
        x, torch.full_like(x, 0.25), target=targets, n_steps=STEPS, method="gausslegendre"
    )
    covered = Occlusion(scored).attribute(
        x,
        (3, WINDOW, WINDOW),
        strides=(3, STRIDE, STRIDE),
        baselines=0.25,
        target=targets,
    )
    # captum gives each channel of a window its whole drop.
    return {
        "integrated_gradients": gradients.detach().sum(1).numpy(),
        "occlusion": covered.detach()[:, 0].numpy(),
    }


def attention_maps(model: nn.Module, x: torch.Tensor) -> dict:
    weights = []
    for block in model.blocks:
        block.attn.fused_attn = False

        def keep(_, inputs):
            inputs[0].retain_grad()
            weights.append(inputs[0])

        block.attn.attn_drop.register_forward_pre_hook(keep)
    scores = LogOdds(model)(x)
    sum(scores[i, t] for i, t in enumerate(TARGETS[: len(x)])).backward()
    tokens = weights[0].shape[-1]
    plain = relevant = torch.eye(tokens).expand(len(x), -1, -1)
    for each in weights:
        mean = 0.5 * each.detach().mean(1) + 0.5 * torch.eye(tokens)
        plain = torch.bmm(mean / mean.sum(-1, keepdim=True), plain)
        positive = (each.grad * each.detach()).clamp(min=0).mean(1)
        relevant = relevant + torch.bmm(positive, relevant)
    side = int((tokens - 1) ** 0.5)
    return {
        "rollout": plain[:, 0, 1:].reshape(-1, side, side).numpy(),
        "attention": relevant[:, 0, 1:].reshape(-1, side, side).numpy(),
    }


def main() -> None:
    kinds = {"log_odds": LogOdds, "logit": lambda model: model}
    cnn = filled(CNN(8, 32))
    resnet = filled(timm.create_model("resnet18", num_classes=CLASSES))
    hybrid = timm.create_model("vit_small_r26_s32_224", num_classes=CLASSES, img_size=96)
    hybrid = filled(hybrid)
    found = {}

    def keep(case: str, maps: dict) -> None:
        found.update({f"{case}/{name}": np.float32(value) for name, value in maps.items()})

    for kind, of in kinds.items():
        keep(f"cnn/feature_map/{kind}", activation_maps(cnn, cnn.last, images(2, 32), of))
        keep(f"cnn/pixels/{kind}", pixel_maps(cnn, images(2, 32), of))
        for layer, place in (("feature_map", "layer4"), ("layer3_1", "layer3")):
            maps = activation_maps(resnet, getattr(resnet, place)[-1], images(2, 64), of)
            keep(f"resnet18/{layer}/{kind}", maps)
    keep("resnet18/pixels/log_odds", pixel_maps(resnet, images(1, 64), LogOdds))
    keep("hybrid/attention/log_odds", attention_maps(hybrid, images(2, 96)))
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **found)
    for name, value in found.items():
        print(f"{name:45} {value.shape} {value.min():.3g} {value.max():.3g}")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
