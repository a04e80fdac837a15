"""Exports a trained run as StableHLO for CPU, CUDA and TPU: one file that needs no leukjax."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float32, UInt8

from leukjax import data
from leukjax.data.datasets import cnmc
from leukjax.predict.member import Member
from leukjax.predict.predictor import Predictor
from leukjax.storage import write_atomic

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, DESCRIPTION, LOADER = "model.stablehlo", "model.json", "predict.py"


def write(predictor: Predictor, folder: Path) -> None:
    """Writes the exported function, its description and a loader.

    ``model.stablehlo`` takes uint8[n, S, S, 3] at the training size, with n free, and returns
    probabilities float32[n, classes]: scaling, normalization, network and softmax are inside. It
    computes in the precision that the run has on this machine (float32 on CPU). ``model.json``
    describes how an image is prepared. ``predict.py`` decodes images by the rules of leukjax,
    prepares them and calls the function; it needs jax, flatbuffers and Pillow.

    Args:
      predictor: one run. Its temperature is exported as well, test-time augmentation is not.
      folder: created if missing.

    Raises:
      UserError: an ensemble.
      OSError: the folder cannot be written.
    """
    member = predictor.member
    write_files(folder, PROGRAM, serialize(member), description(member))


def write_files(folder: Path, name: str, blob: bytes, about: dict[str, Any]) -> None:
    """Writes an exported function, its description and the loader.

    Raises:
      OSError: the folder cannot be written.
    """
    about = {**about, "file": name, "sha256": hashlib.sha256(blob).hexdigest()}
    write_atomic(folder / name, blob)
    write_atomic(folder / DESCRIPTION, json.dumps(about, indent=1) + "\n")
    write_atomic(folder / LOADER, loader())


def loader() -> str:
    """Returns the source of the loader, which needs no leukjax: the decoder is copied into it."""
    return _inlined(Path(__file__).with_name("predict_template.py"))


def _inlined(path: Path) -> str:
    """The source of a module with its imports from `leukjax.data` replaced by their source."""
    folder = Path(data.__file__).parent
    return re.sub(
        r"^from leukjax\.data\.(\w+) import .*\n",
        lambda match: _inlined(folder / f"{match[1]}.py"),
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )


def serialize(member: Member) -> bytes:
    """Returns the serialized function, for every platform of `PLATFORMS`."""
    (count,) = export.symbolic_shape("n")
    side = member.image_size
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    function = jax.jit(probabilities_of(member))
    return bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


def probabilities_of(member: Member) -> Any:
    """Returns the function from prepared images to probabilities."""

    def probabilities(images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n c"]:
        return jax.nn.softmax(member.logits(member.normalize(images)) / member.temperature)

    return probabilities


def description(member: Member) -> dict[str, Any]:
    """Returns what a user of the exported function needs to know."""
    preprocessing = member.preprocessing
    copied = (
        *("classes", "positive", "data", "synthetic", "background", "crop", "denoise"),
        *("image_size", "resize", "scale", "stain", "mean", "std", "compute_dtype", "versions"),
    )
    # [size of the image, window], as `Member.preprocess` crops; 0 = images of any size.
    windows = [[0, preprocessing["crop"]]] if preprocessing["crop"] else []
    if preprocessing["data"] == "cnmc":
        windows.insert(0, [cnmc.FINAL_SIDE, cnmc.SIDE])
    side = member.image_size
    return {
        **{name: preprocessing[name] for name in copied},
        "windows": windows,
        "temperature": float(member.temperature),
        "step": member.step,
        "platforms": list(PLATFORMS),
        "inputs": f"uint8[n, {side}, {side}, 3], RGB",
        "outputs": f"float32[n, {len(member.classes)}], probabilities in the order of classes",
    }
