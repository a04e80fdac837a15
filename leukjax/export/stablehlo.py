"""A trained run as one file that needs no leukjax: StableHLO for CPU, CUDA and TPU."""

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
from leukjax.predict.predictor import Model
from leukjax.storage import write_atomic

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, ABOUT, LOADER = "model.stablehlo", "model.json", "predict.py"


def write(model: Model, folder: Path) -> None:
    """Write the program, its description and a loader.

    ``model.stablehlo`` takes uint8[n, S, S, 3], n free, at the training size, and gives
    probabilities float32[n, classes]: scaling, normalisation, network and softmax are inside. It
    computes in the precision that the run has on this machine (float32 on CPU). ``model.json`` says
    what an image goes through before. ``predict.py`` decodes images by the rules of leukjax, does
    that and calls the program; it needs jax, flatbuffers and Pillow.

    Args:
      model: one run; its temperature is inside as well, test-time augmentation is not.
      folder: made if it is not there.

    Raises:
      OSError: the folder cannot be written.
    """
    ship(folder, PROGRAM, program(model), description(model))


def ship(folder: Path, name: str, blob: bytes, about: dict[str, Any]) -> None:
    """Write a program under a name, what is to be said about it, and the loader.

    Raises:
      OSError: the folder cannot be written.
    """
    about = {**about, "file": name, "sha256": hashlib.sha256(blob).hexdigest()}
    write_atomic(folder / name, blob)
    write_atomic(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    write_atomic(folder / LOADER, loader())


def loader() -> str:
    """The loader as one file that needs no leukjax: the decoder's modules are copied into it."""
    return _inlined(Path(__file__).with_name("predict_template.py"))


def _inlined(path: Path) -> str:
    """The source of a module, with that of the modules of `leukjax.data` in place of imports."""
    folder = Path(data.__file__).parent
    return re.sub(
        r"^from leukjax\.data\.(\w+) import .*\n",
        lambda found: _inlined(folder / f"{found[1]}.py"),
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )


def program(model: Model) -> bytes:
    """The serialised program, for every platform of `PLATFORMS`."""

    def answer(images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n c"]:
        return jax.nn.softmax(model.logits(model.normalize(images)) / model.temperature)

    (count,) = export.symbolic_shape("n")
    side = model.image_size
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    return bytes(export.export(jax.jit(answer), platforms=PLATFORMS)(images).serialize())


def description(model: Model) -> dict[str, Any]:
    """What a user of the program needs to know."""
    said = model.preprocessing
    kept = (
        *("classes", "positive", "data", "synthetic", "background", "crop", "denoise"),
        *("image_size", "resize", "scale", "mean", "std", "compute_dtype", "versions"),
    )
    # [size of the image, window]: what `Model.preprocess` cuts; 0 = images of any size.
    windows = [[0, said["crop"]]] if said["crop"] else []
    if said["data"] == "cnmc":
        windows.insert(0, [cnmc.FINAL_SIDE, cnmc.SIDE])
    return {
        **{name: said[name] for name in kept},
        "windows": windows,
        "temperature": float(model.temperature),
        "step": model.step,
        "platforms": list(PLATFORMS),
        "inputs": f"uint8[n, {model.image_size}, {model.image_size}, 3], RGB",
        "outputs": f"float32[n, {len(model.classes)}], probabilities in the order of classes",
    }
