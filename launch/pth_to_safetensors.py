"""Converts a PyTorch checkpoint to safetensors, which leukjax reads. Needs PyTorch and safetensors.

python launch/pth_to_safetensors.py resnet50.pth resnet50.safetensors
python launch/pth_to_safetensors.py DinoBloom-S.pth dinobloom_s.safetensors --sha256=CHECKSUM

A .pth is a pickle, and a pickle can run any code. This script reads it with
torch.load(weights_only=True), which accepts only tensors and plain containers. Of a training
checkpoint it takes the state dict ("state_dict", "model", "model_ema" or "teacher"). Of DINOv2's
training, and so of DinoBloom's files, it leaves out the heads of the pre-training (dino_head,
ibot_head). It removes a prefix "module." or "backbone." that all names have. Run it in a separate
environment: leukjax needs no PyTorch.
"""

import argparse
import hashlib
import os
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

INSIDE = ("model_ema", "state_dict", "model", "teacher")
HEADS = ("dino_head.", "ibot_head.")


def tensors_of(content: object) -> dict[str, torch.Tensor]:
    """Returns the state dict from any level of the checkpoint."""
    while isinstance(content, dict):
        deeper = next(
            (content[name] for name in INSIDE if isinstance(content.get(name), dict)), None
        )
        if deeper is None:
            break
        content = deeper
    if not isinstance(content, dict) or not content:
        raise ValueError("it has no dictionary of tensors")
    strange = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ValueError(f"{strange[0]!r} in it is not a tensor")
    for prefix in ("module.", "backbone."):
        content = {name: x for name, x in content.items() if not name.startswith(HEADS)}
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): x for name, x in content.items()}
    # Copies: tensors that share memory are not allowed in safetensors.
    return {name: x.clone().contiguous() for name, x in content.items()}


def check_sha256(path: Path, wanted: str) -> None:
    """Raises ValueError if a file has another checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.lower():
        raise ValueError(f"its SHA-256 is {found}, not that of --sha256; get the file again")


def main() -> int:
    """Converts; returns 0, or 1 after one line with the reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--sha256", help="checksum that the source must have")
    options = parser.parse_args()
    temporary = options.target.with_name(f".{options.target.name}.{os.getpid()}")
    try:
        if options.sha256:
            check_sha256(options.source, options.sha256)
        content = torch.load(options.source, map_location="cpu", weights_only=True)
        tensors = tensors_of(content)
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.replace(options.target)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        temporary.unlink(missing_ok=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {options.source}: not converted: {reason[:300]}", file=sys.stderr)
        return 1
    print(f"{options.target}: {len(tensors)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
