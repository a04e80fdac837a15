"""Exports a trained run as ONNX, converted by jax2onnx (the extra ``onnx``)."""

import dataclasses
import importlib.util
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from leukjax.errors import UserError
from leukjax.export import stablehlo
from leukjax.export.resolve_platforms import resolved
from leukjax.predict.member import Member
from leukjax.predict.predictor import Predictor

PROGRAM = "model.onnx"
INPUT, OUTPUT = "images", "probabilities"
TOLERANCE = 1e-4  # largest difference of onnxruntime's probabilities from the run's
MAX_BYTES = 2**31  # of one protocol buffer


def write(predictor: Predictor, folder: Path) -> None:
    """Writes ``model.onnx``, its description and the loader.

    ``model.onnx`` has the inputs and outputs of `stablehlo.write`, and computes in float32 whatever
    the run computes in. Before it is written, onnxruntime predicts noise with it, and must agree
    with the run.

    Args:
      predictor: one run. Its temperature is exported as well, test-time augmentation is not.
      folder: created if missing.

    Raises:
      UserError: an ensemble, the extra is not installed, the network cannot be converted, or
        onnxruntime returns other probabilities.
      OSError: the folder cannot be written.
    """
    check_installed()
    member = predictor.member
    blob, opset = serialize(member)
    difference = _difference(member, blob)
    if not difference <= TOLERANCE:
        raise UserError(
            f"onnxruntime {version('onnxruntime')} returns probabilities that differ by "
            f"{difference:.2g} from the run's; nothing is written; use the format stablehlo"
        )
    about = stablehlo.description(member) | {
        "platforms": [f"ONNX opset {opset}"],
        "compute_dtype": "float32",
        "input_name": INPUT,
        "output_name": OUTPUT,
        "difference": difference,
    }
    about["versions"] = about["versions"] | {
        name: version(name) for name in ("jax2onnx", "onnx", "onnxruntime")
    }
    stablehlo.write_files(folder, PROGRAM, blob, about)


def check_installed() -> None:
    """Raises UserError if the extra is not installed."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{name} is not installed; pip install 'leukjax[onnx]' in an environment of its "
                "own (docs/howto/export.md explains why)"
            )


def serialize(member: Member) -> tuple[bytes, int]:
    """Returns the serialized ONNX model and its opset.

    Raises:
      UserError: jax2onnx cannot convert the network, or it is too large for one file.
    """
    from jax2onnx import to_onnx

    member = _in_float32(member)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(member.variables))
    if size >= MAX_BYTES:
        raise UserError(
            f"the network has {size / 2**30:.1f} GiB and an ONNX file holds less than 2; use the "
            "format stablehlo"
        )
    (count,) = jax.export.symbolic_shape("n")
    side = member.image_size
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    try:
        converted = to_onnx(
            resolved(stablehlo.probabilities_of(member)),
            [images],
            model_name="leukjax",
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    except Exception as error:  # each of its operators raises its own
        raise UserError(
            f"jax2onnx {version('jax2onnx')} cannot convert this network "
            f"({type(error).__name__}: {error}); use the format stablehlo"
        ) from error
    return converted.SerializeToString(), converted.opset_import[0].version


def _in_float32(member: Member) -> Member:
    return dataclasses.replace(member, module=member.module.clone(dtype=jnp.float32))


def _difference(member: Member, blob: bytes) -> float:
    """Largest difference of onnxruntime's probabilities, over batches of several sizes."""
    import onnxruntime

    member = _in_float32(member)
    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    rng, side = np.random.default_rng(0), member.image_size
    largest = 0.0
    for count in (1, 3):
        # Dark, bright, coloured: one brightness and one tint per image, and noise.
        tint = rng.uniform(0, 255, (count, 1, 1, 3))
        noise = rng.normal(0, 40, (count, side, side, 3))
        images = np.clip(tint + noise, 0, 255).astype(np.uint8)
        (probabilities,) = session.run([OUTPUT], {INPUT: images})
        expected = member.outputs(images).probabilities
        largest = max(largest, float(np.abs(probabilities - expected).max()))
    return largest
