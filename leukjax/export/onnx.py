"""A trained run as an ONNX file, converted by jax2onnx (the extra ``onnx``)."""

import dataclasses
import importlib.util
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from leukjax.errors import UserError
from leukjax.export import stablehlo
from leukjax.export.resolve_platforms import unbranched
from leukjax.predict.predictor import Model

PROGRAM = "model.onnx"
INPUT, OUTPUT = "images", "probabilities"
CLOSE = 1e-4  # that probabilities of onnxruntime have to be to those of the run
LARGEST = 2**31  # bytes of one protocol buffer


def write(model: Model, folder: Path) -> None:
    """Write ``model.onnx``, its description and the loader.

    ``model.onnx`` takes and gives what `stablehlo.write`'s program does, in float32 whatever the
    run computes in. Before it is written, onnxruntime answers with it about noise, and has to give
    the run's probabilities.

    Args:
      model: one run; its temperature is inside as well, test-time augmentation is not.
      folder: made if it is not there.

    Raises:
      UserError: the extra is not installed, the model cannot be converted, or onnxruntime gives
        other probabilities.
      OSError: the folder cannot be written.
    """
    check_installed()
    blob, opset = program(model)
    difference = _difference(model, blob)
    if not difference <= CLOSE:
        raise UserError(
            f"--format=onnx: onnxruntime {version('onnxruntime')} gives probabilities that differ "
            f"by {difference:.2g} from the run's; nothing is written; use --format=stablehlo"
        )
    about = stablehlo.description(model) | {
        "platforms": [f"ONNX opset {opset}"],
        "compute_dtype": "float32",
        "input_name": INPUT,
        "output_name": OUTPUT,
        "difference": difference,
    }
    about["versions"] = about["versions"] | {
        name: version(name) for name in ("jax2onnx", "onnx", "onnxruntime")
    }
    stablehlo.ship(folder, PROGRAM, blob, about)


def check_installed() -> None:
    """Raises UserError where the extra is not."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--format=onnx: {name} is not installed; pip install 'leukjax[onnx]' in an "
                "environment of its own (docs/export.md says why)"
            )


def program(model: Model) -> tuple[bytes, int]:
    """The serialised ONNX model, and its opset.

    Raises:
      UserError: jax2onnx cannot convert the network, or it is too large for one file.
    """
    from jax2onnx import to_onnx

    plain = _in_float32(model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(plain.variables))
    if size >= LARGEST:
        raise UserError(
            f"--format=onnx: the network has {size / 2**30:.1f} GiB and an ONNX file holds less "
            "than 2; use --format=stablehlo"
        )

    def answer(images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n c"]:
        return jax.nn.softmax(plain.logits(plain.normalize(images)) / plain.temperature)

    (count,) = jax.export.symbolic_shape("n")
    side = plain.image_size
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    try:
        converted = to_onnx(
            unbranched(answer),
            [images],
            model_name="leukjax",
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    except Exception as error:  # each of its operators has its own
        raise UserError(
            f"--format=onnx: jax2onnx {version('jax2onnx')} cannot convert this network "
            f"({type(error).__name__}: {error}); use --format=stablehlo"
        ) from error
    return converted.SerializeToString(), converted.opset_import[0].version


def _in_float32(model: Model) -> Model:
    return dataclasses.replace(model, module=model.module.clone(dtype=jnp.float32), tta=False)


def _difference(model: Model, blob: bytes) -> float:
    """Largest difference of onnxruntime's probabilities, over batches of several sizes."""
    import onnxruntime

    plain = _in_float32(model)
    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    draw, side = np.random.default_rng(0), plain.image_size
    largest = 0.0
    for count in (1, 3):
        # Dark, bright, coloured: one brightness and one tint an image, and noise.
        tint = draw.uniform(0, 255, (count, 1, 1, 3))
        noise = draw.normal(0, 40, (count, side, side, 3))
        images = np.clip(tint + noise, 0, 255).astype(np.uint8)
        (found,) = session.run([OUTPUT], {INPUT: images})
        largest = max(largest, float(np.abs(found - plain.predict(images)).max()))
    return largest
