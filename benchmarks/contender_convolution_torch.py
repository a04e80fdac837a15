"""Contender: the same 3x3 convolution in PyTorch, channels-last, in the peers' environment."""

import torch
from harness import repeated, serve


def prepare(spec):
    torch.manual_seed(0)
    side, channels = spec["side"], spec["channels"]

    def features():
        return torch.randn(spec["batch"], channels, side, side).contiguous(
            memory_format=torch.channels_last
        )

    x, gradient = features(), features()
    kernel = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)

    def forward():
        with torch.inference_mode():
            return torch.nn.functional.conv2d(x, kernel, padding=1)

    def gradients():
        return torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, True, False)
        )

    once = forward if spec["pass"] == "forward" else gradients
    about = {"device": "cpu", "versions": f"torch {torch.__version__}"}
    return about, repeated(once, lambda result: result, spec["seconds"], True)


if __name__ == "__main__":
    serve(prepare)
