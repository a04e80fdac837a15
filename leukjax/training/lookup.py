"""Inside a step: the images of a batch, from the batch itself or from pixels on the devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from leukjax import sharding

PIXELS = "pixels"  # the batch's field for all records on the devices


def images_of(
    batch: dict[str, Any], mesh: Mesh, place: NamedSharding | None
) -> UInt8[Array, "b s s 3"]:
    """``batch["image"]``, or the records ``batch["index"]`` of ``batch["pixels"]``.

    Args:
      batch: of a step.
      mesh: of the run.
      place: how the pixels lie on its devices; None where the batch brings its images.
    """
    if place is None:
        return batch["image"]
    shared = place.spec != PartitionSpec()
    take = _from_all(mesh) if shared else _from_own
    # Behind the barrier stands the program of a batch that brings its images, so that the bits are
    # the same: XLA may round otherwise where it fuses otherwise.
    return lax.optimization_barrier(take(batch[PIXELS], batch["index"]))


def _from_own(pixels: UInt8[Array, "n s s 3"], index: Int[Array, " b"]) -> UInt8[Array, "b s s 3"]:
    return pixels.at[index].get(mode="promise_in_bounds")


def _from_all(mesh: Mesh):
    """Each device looks up what it holds of the whole batch; a sum deals out the images.

    A batch crosses the wires once, as uint8; nothing is rounded, for all but one addend are 0.
    """
    data = PartitionSpec("data")

    def take(pixels: Array, index: Array) -> Array:
        index = lax.all_gather(index, "data", tiled=True) - lax.axis_index("data") * len(pixels)
        ours = (index >= 0) & (index < len(pixels))
        found = _from_own(pixels, jnp.where(ours, index, 0))
        found = jnp.where(ours[:, None, None, None], found, 0)
        return lax.psum_scatter(found, "data", tiled=True)

    return jax.shard_map(take, mesh=mesh, in_specs=(data, data), out_specs=data)


def batch_shardings(mesh: Mesh, pixels: NamedSharding | None, steps: int = 1) -> Any:
    """Where the fields of a batch lie; of several steps' the examples are the second axis."""
    examples = sharding.batch_sharding(mesh)
    if pixels is None:
        return examples
    if steps > 1:
        examples = NamedSharding(mesh, PartitionSpec(None, "data"))
    return {PIXELS: pixels} | dict.fromkeys(("label", "mask", "index"), examples)
