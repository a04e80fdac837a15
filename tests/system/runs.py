"""Small whole runs as subprocesses, and what two of them must have in common."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from leukjax.training.metric_writer import TIMES

REPOSITORY = Path(__file__).resolve().parents[2]

# A run of seconds: few synthetic cells, a narrow network, everything else as users have it.
TINY = {
    "data.smears_subjects": 18,
    "data.smears_cells": 8,
    "data.image_size": 24,
    "model.width": 8,
    "train.batch_size": 16,
    "train.epochs": 3,
}


def command(config: str, workdir: Path, changes: dict | None = None) -> list[str]:
    """The command line of a training run."""
    fields = [f"--config.{name}={value}" for name, value in (TINY | (changes or {})).items()]
    return [
        sys.executable,
        "-m",
        "leukjax.main",
        f"--config={config}",
        f"--workdir={workdir}",
        *fields,
    ]


def start(arguments: list[str], cache: Path, *, devices: int = 1, **options) -> subprocess.Popen:
    """Start a command with a cache of its own for records."""
    environment = os.environ | {
        "LEUKJAX_CACHE": str(cache),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(arguments: list[str], cache: Path, *, expect: int = 0, **options) -> str:
    """Run a command to its end; returns what it printed on both streams."""
    process = start(arguments, cache, **options)
    out, err = process.communicate(timeout=600)
    assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def with_patch(code: str, arguments: list[str]) -> list[str]:
    """The same command with a few lines of Python run before it (to die at a chosen moment)."""
    program = (
        f"import os, signal, sys\n{code}\n"
        "from leukjax import command, main\n"
        f"sys.exit(command.status(main.main, main.FLAGS, {arguments[3:]!r}, doc=None))\n"
    )
    return [sys.executable, "-c", program]


def metrics(workdir: Path) -> list[dict]:
    """metrics.jsonl without the fields that depend on the machine."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def saved_tree(checkpoint: Path) -> dict:
    """What a checkpoint holds, as NumPy arrays, whatever devices it was saved from."""
    import jax
    import orbax.checkpoint as ocp

    checkpointer = ocp.PyTreeCheckpointer()
    metadata = checkpointer.metadata(checkpoint / "state").item_metadata
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
    return checkpointer.restore(checkpoint / "state", ocp.args.PyTreeRestore(restore_args=how))


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by path."""
    import jax

    newest = max(
        (path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()),
        key=lambda path: int(path.name),
    )
    leaves = jax.tree_util.tree_leaves_with_path(saved_tree(newest))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_bits(a: Path, b: Path) -> None:
    """Two finished runs agree in every score, every prediction and every parameter."""
    assert metrics(a) == metrics(b)
    for part in ("val", "test"):
        name = f"predictions/{part}.csv"
        assert (a / name).read_bytes() == (b / name).read_bytes()
    ours, theirs = parameters(a), parameters(b)
    assert ours.keys() == theirs.keys()
    assert ours
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
