"""One row of compiled.py: lower a step, compile it for devices that are not here, read the result.

A process of its own, because the compilers must be the first that JAX sees. It reads a request as
JSON from its input and answers in one line:

    {"known": PROGRAM}     the row is there already (`request["known"]`)
    {"error": WORDS}       it does not compile, or does not fit
    {"row": …, "costliest": […]}

A program is known by the digest of its StableHLO and of the compiler's flags. What the compiler
made of it is kept in a folder, packed, so that a better reader of programs compiles nothing again.
"""

import dataclasses
import gzip
import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiled_without import WITHOUT
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from plain_flax import make_step

import leukjax.compiler
from leukjax import config as configs
from leukjax.compiler import compiled
from leukjax.compiler.targets import TARGETS, Target
from leukjax.errors import UserError
from leukjax.training import preflight

OURS, PLAIN = "leukjax", "plain Flax"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compile what a request asks for, unless its program is known."""
    target, count = TARGETS[request["device"]], request["count"]
    config = configs.load(request["config"], request["fields"])
    lowered = LOWER[request["contender"]](config, target, request)
    said = lowered.as_text() + json.dumps(request["flags"], sort_keys=True)
    program = hashlib.sha256(said.encode()).hexdigest()[:12]
    about = {
        "precision": config.compute_dtype,
        "image_size": config.data.image_size,
        "versions": versions(target),
        "reader": reader(),
        "program": program,
        "parameters": parameters(lowered),
    }
    if [program, about["versions"], about["reader"]] in request["known"]:
        return {"known": program}
    label = f"{request['device']}-{count}-{program}-{about['versions'].replace(' ', '-')}"
    made = kept(Path(request["programs"]) / f"{label}.json.gz", lowered, request["flags"])
    images = config.train.batch_size // count
    found = compiled.summarize(made.text, target, images)
    return {
        "row": about | measures(found, made, target, count, images),
        "costliest": [dataclasses.asdict(one) for one in found.costliest],
    }


def kept(file: Path, lowered: jax.stages.Lowered, flags: dict[str, Any]) -> compiled.Compiled:
    """What the compiler made of a program: from the folder, or compiled and put there."""
    if file.exists():
        return compiled.Compiled(**json.loads(gzip.decompress(file.read_bytes())))
    made = compiled.compile_lowered(lowered, flags)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(made)).encode()))
    part.replace(file)
    return made


def measures(
    found: compiled.Summary, made: compiled.Compiled, target: Target, count: int, images: int
) -> dict[str, Any]:
    """The columns of the CSV that are numbers."""
    reduced = found.collectives.get("all-reduce", {})
    others = {kind: row for kind, row in found.collectives.items() if kind != "all-reduce"}
    sent = sum(row["megabytes"] for row in others.values()) + 2 * reduced.get("megabytes", 0)
    return {
        "megabytes_per_image": round(found.bytes_per_image / 1e6, 2),
        "gigaflops_per_image": round(found.flops_per_image / 1e9, 3),
        "roofline_microseconds_per_image": round(1e6 / found.images_per_second, 2),
        "images_per_second_bound": round(found.images_per_second, 1),
        "bound_by_memory": round(found.bound_by_memory, 3),
        "peak_gigabytes": round(made.peak_bytes / 1e9, 3),
        "fits": made.peak_bytes <= target.usable,
        "all_reduces": int(reduced.get("number", 0)),
        "all_reduce_megabytes": round(reduced.get("megabytes", 0), 3),
        "all_reduces_overlapped": int(reduced.get("overlapped", 0)),
        "other_exchanges": "; ".join(
            f"{kind} {row['number']}: {row['megabytes']:.1f} MB, {row['overlapped']} overlapped"
            for kind, row in others.items()
        ),
        # A ring: every device sends (n - 1) / n of the array twice for a sum, once otherwise.
        "links_microseconds_per_image": round(
            sent * (count - 1) / count / (target.links / 1e12) / images, 3
        ),
        "estimated_cycles": round(found.estimated_cycles),
        "compile_seconds": round(made.seconds, 1),
        "compiler_options": json.dumps(made.options) if made.options else "",
    }


def versions(target: Target) -> str:
    """Of JAX and of the compiler."""
    compiler = "jax-cuda13-pjrt" if target.platform == "cuda" else "libtpu"
    return f"jax {jax.__version__} {compiler} {metadata.version(compiler)}"


def reader() -> str:
    """Digest of the code that reads a program, and of the devices' descriptions."""
    folder = Path(leukjax.compiler.__file__).parent
    whole = hashlib.sha256()
    for file in sorted([*folder.glob("*.py"), *folder.glob("*.txtpb")]):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:8]


def parameters(lowered: jax.stages.Lowered) -> int:
    """Numbers in the parameters of the state, which is the first argument."""
    state = lowered.args_info[0][0]
    tree = state.params if hasattr(state, "params") else state[0]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def lower_ours(config: ConfigDict, target: Target, request: dict[str, Any]) -> jax.stages.Lowered:
    """The step of the train command, without the parts of it that are taken away."""
    for part in request["without"]:
        WITHOUT[part]()
    return preflight.lower(config, target, request["count"], request["resident"])


def lower_plain(config: ConfigDict, target: Target, request: dict[str, Any]) -> jax.stages.Lowered:
    """The same model in plain Flax: whole state everywhere, float images, spread over devices."""
    name = plain_name(config)
    if not name:
        raise UserError(f"plain Flax has no model like {request['config']}: --contenders={OURS}")
    devices = np.array(target.devices(request["count"]))
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec("data"))
    dtype = jnp.dtype(config.compute_dtype)
    init, step = make_step(name, dtype, optimizer(config.optimizer))
    side, batch = config.data.image_size, config.train.batch_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32, sharding=spread)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=spread)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(init, images),
    )
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(everywhere, everywhere))
    return jitted.trace(state, images, labels).lower(lowering_platforms=(target.platform,))


def plain_name(config: ConfigDict) -> str:
    """The model of plain_flax.py that a config's model is; empty where there is none."""
    model = config.model
    kinds = {
        ("cnn", None): "cnn",
        ("resnet", 50): "resnet50",
        ("hybrid_vit", "r26_s32"): "hybrid",
    }
    size = {"resnet": model.depth, "hybrid_vit": model.variant}.get(model.name)
    return kinds.get((model.name, size), "")


def optimizer(options: ConfigDict) -> optax.GradientTransformation:
    """A config's optimiser, of optax alone."""
    clip = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []
    if options.name == "sgd":
        return optax.chain(*clip, optax.sgd(options.learning_rate, options.momentum))
    if options.name == "adamw":
        decay = options.weight_decay
        return optax.chain(*clip, optax.adamw(options.learning_rate, weight_decay=decay))
    return optax.chain(*clip, optax.adam(options.learning_rate))


LOWER = {OURS: lower_ours, PLAIN: lower_plain}


def main() -> None:
    """Read the request, answer it."""
    try:
        said = answer(json.load(sys.stdin))
    except UserError as error:
        said = {"error": str(error)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
