"""One row of compiled.csv: lowers a step, compiles it for absent devices, reads the result.

A process of its own, because it must configure JAX before its first use. It reads a request as JSON
from standard input and answers in one line:

    {"known": PROGRAM}          the row exists already (`request["known"]`)
    {"error": MESSAGE}          it does not compile, or does not fit
    {"row": …}

A program is identified by the digest of its StableHLO and of the compiler's flags. Compiled
programs are kept in a folder, so that a change to the reader compiles nothing again.
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
from compiled_grid import OURS, PLAIN
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from plain_flax import make_step

import leukjax.compiler
from leukjax import config as configs
from leukjax.compiler import compiled
from leukjax.compiler.targets import TARGETS, Target
from leukjax.errors import UserError
from leukjax.training import preflight


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles what a request describes, unless its program is known."""
    target, count = TARGETS[request["device"]], request["count"]
    config = configs.load(request["config"], request["fields"])
    lowered = LOWER[request["contender"]](config, target, request)
    text = lowered.as_text() + json.dumps(request["flags"], sort_keys=True)
    program = hashlib.sha256(text.encode()).hexdigest()[:12]
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
    made = load_or_compile(
        Path(request["programs"]) / f"{label}.json.gz", lowered, request["flags"]
    )
    images = config.train.batch_size // count
    summary = compiled.summarize(made.text, target, images)
    return {"row": about | measures(summary, made, target, count, images)}


def load_or_compile(
    file: Path, lowered: jax.stages.Lowered, flags: dict[str, Any]
) -> compiled.Compiled:
    """Reads a compiled program from the file, or compiles it and writes the file."""
    if file.exists():
        return compiled.Compiled(**json.loads(gzip.decompress(file.read_bytes())))
    made = compiled.compile_lowered(lowered, flags)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(made)).encode()))
    part.replace(file)
    return made


def measures(
    summary: compiled.Summary, made: compiled.Compiled, target: Target, count: int, images: int
) -> dict[str, Any]:
    """Returns the numeric columns of the CSV."""
    reduced = summary.collectives.get("all-reduce", {})
    others = {kind: row for kind, row in summary.collectives.items() if kind != "all-reduce"}
    sent = sum(row["megabytes"] for row in others.values()) + 2 * reduced.get("megabytes", 0)
    return {
        "megabytes_per_image": round(summary.bytes_per_image / 1e6, 2),
        "gigaflops_per_image": round(summary.flops_per_image / 1e9, 3),
        "roofline_microseconds_per_image": round(1e6 / summary.images_per_second, 2),
        "images_per_second_bound": round(summary.images_per_second, 1),
        "bound_by_memory": round(summary.bound_by_memory, 3),
        "peak_gigabytes": round(made.peak_bytes / 1e9, 3),
        "fits": made.peak_bytes <= target.usable,
        "all_reduces": int(reduced.get("number", 0)),
        "all_reduce_megabytes": round(reduced.get("megabytes", 0), 3),
        "all_reduces_overlapped": int(reduced.get("overlapped", 0)),
        "other_exchanges": "; ".join(
            f"{kind} {row['number']}: {row['megabytes']:.1f} MB, {row['overlapped']} overlapped"
            for kind, row in others.items()
        ),
        # In a ring every device sends (n - 1) / n of the array twice for a sum, once otherwise.
        "links_microseconds_per_image": round(
            sent * (count - 1) / count / (target.links / 1e12) / images, 3
        ),
        "estimated_cycles": round(summary.estimated_cycles),
        "compile_seconds": round(made.seconds, 1),
        "compiler_options": json.dumps(made.options) if made.options else "",
    }


def versions(target: Target) -> str:
    """Returns the versions of JAX and of the compiler."""
    compiler = "jax-cuda13-pjrt" if target.platform == "cuda" else "libtpu"
    return f"jax {jax.__version__} {compiler} {metadata.version(compiler)}"


def reader() -> str:
    """Returns the digest of the code that reads a program, and of the device descriptions."""
    folder = Path(leukjax.compiler.__file__).parent
    whole = hashlib.sha256()
    for file in sorted([*folder.glob("*.py"), *folder.glob("*.txtpb")]):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:8]


def parameters(lowered: jax.stages.Lowered) -> int:
    """Returns the number of parameters in the state, which is the first argument."""
    state = lowered.args_info[0][0]
    tree = state.params if hasattr(state, "params") else state[0]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def lower_ours(config: ConfigDict, target: Target, request: dict[str, Any]) -> jax.stages.Lowered:
    """Lowers the step of the training command."""
    return preflight.lower(config, target, request["count"], request["resident"])


def lower_plain(config: ConfigDict, target: Target, request: dict[str, Any]) -> jax.stages.Lowered:
    """Lowers the same model in plain Flax: replicated state, float images split over devices."""
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
    """Returns the name of the same model in plain_flax.py, or ""."""
    model = config.model
    kinds = {
        ("cnn", None): "cnn",
        ("resnet", 50): "resnet50",
        ("hybrid_vit", "r26_s32"): "hybrid",
    }
    size = {"resnet": model.depth, "hybrid_vit": model.variant}.get(model.name)
    return kinds.get((model.name, size), "")


def optimizer(options: ConfigDict) -> optax.GradientTransformation:
    """Returns a config's optimizer from optax alone."""
    clip = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []
    if options.name == "sgd":
        return optax.chain(*clip, optax.sgd(options.learning_rate, options.momentum))
    if options.name == "adamw":
        decay = options.weight_decay
        return optax.chain(*clip, optax.adamw(options.learning_rate, weight_decay=decay))
    return optax.chain(*clip, optax.adam(options.learning_rate))


LOWER = {OURS: lower_ours, PLAIN: lower_plain}


def main() -> None:
    """Reads the request, writes the answer."""
    try:
        result = answer(json.load(sys.stdin))
    except UserError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
