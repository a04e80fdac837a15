"""Contender: the PyTorch models exported to ONNX and run by onnxruntime, fed from the host.

Runs in the peers' environment (``benchmarks/peers.sh``). onnxruntime folds BatchNorm itself.
"""

import io
from typing import Any

import onnxruntime
import torch
from contender_torch import build
from harness import Round, host_memory, repeated, serve, with_memory


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Export, load, warm up."""
    if spec["task"] != "predict" or spec["precision"] != "float32":
        raise ValueError("predicts only, and in float32")
    torch.manual_seed(0)
    model = build(spec["model"], spec["image_size"]).eval()
    images = torch.randn(spec["batch"], 3, spec["image_size"], spec["image_size"])
    file = io.BytesIO()
    torch.onnx.export(model, (images,), file, input_names=["images"], dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    fed = {"images": images.numpy()}

    def once() -> Any:
        return session.run(None, fed)

    about = {
        "device": session.get_providers()[0],
        "versions": f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}",
    }
    return about, with_memory(repeated(once, lambda _: None, spec["seconds"]), host_memory)


if __name__ == "__main__":
    serve(prepare)
