"""The examples do what they say, each in a process of its own; the notebook in its cells' order."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from safetensors.numpy import save_file

from leukjax.models.registry import create_model
from leukjax.weights import layouts

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(*arguments, cwd=None, **environment):
    """Standard output of a Python process that must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_train_on_arrays(tmp_path):
    out = run(EXAMPLES / "train_on_arrays.py", tmp_path / "run")
    assert "balanced accuracy" in out.lower()
    assert out.count("[[") == 1  # two rows of probabilities
    again = run(EXAMPLES / "train_on_arrays.py", tmp_path / "run")
    assert again == out  # a second start resumes at the end, and nothing changes


def test_own_loop_on_a_mesh():
    out = run(EXAMPLES / "own_loop_on_a_mesh.py", JAX_NUM_CPU_DEVICES="8")
    assert "step 20: loss" in out
    assert float(out.split("accuracy ")[1].split()[0]) > 0.9


def test_the_notebook():
    """Without Jupyter: the cells' code in one namespace."""
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert all(not cell.get("outputs") for cell in cells)
    run("-c", code + "\nassert run.predict([images[0]]).shape == (1, 2)")


README = EXAMPLES.parent / "README.md"


# In place of what compiles and trains for minutes; the slow proof runs the code as printed.
SHORTER = {
    "resnet50": "resnet18",
    "image_size=96": "image_size=32",
    "epochs=8": "epochs=2",
}


@pytest.mark.parametrize(
    "model", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow, id="as printed")]
)
def test_the_first_code_of_the_readme(tmp_path, model):
    """On a folder of cells, with weights where the hub's would be cached."""
    code = README.read_text().split("```")[1].removeprefix("python\n")
    assert code.count("\n") <= 15
    if model != "resnet50":
        assert all(part in code for part in SHORTER)
        for part, shorter in SHORTER.items():
            code = code.replace(part, shorter)
    _draw_cells(tmp_path)
    cached = tmp_path / "cache" / "weights" / "timm" / f"{model}.a1_in1k" / "main"
    cached.mkdir(parents=True)
    save_file(_seeded(model), cached / "model.safetensors")
    check = "assert lj.load('runs/mine').predict(['cell.png']).shape == (1, 2)"
    script = tmp_path / "readme.py"
    script.write_text(f"{code}\n{check}\n")
    out = run("readme.py", cwd=tmp_path, LEUKJAX_CACHE=str(tmp_path / "cache"))
    assert "balanced accuracy" in out.lower()
    facts = json.loads((tmp_path / "runs" / "mine" / "data.json").read_text())
    assert facts["init"]["weights"] == f"hf://timm/{model}.a1_in1k"
    assert facts["subjects"] == 20


def test_the_code_of_the_page_on_python(tmp_path):
    """Every block, in one namespace, on a folder of cells."""
    page = (EXAMPLES.parent / "docs" / "start" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    shorter = {
        '"resnet18"': '"cnn", width=8',
        "image_size=96": "image_size=32",
        "epochs=8": "epochs=2",
    }
    for part, short in {**shorter, "batches, 100": "batches, 2"}.items():
        assert part in code
        code = code.replace(part, short)
    _draw_cells(tmp_path)
    (tmp_path / "page.py").write_text(f"{code}\nassert scores['accuracy'] >= 0\n")
    out = run("page.py", cwd=tmp_path, LEUKJAX_CACHE=str(tmp_path / "cache"))
    assert "Event(kind='evaluation'" in out
    assert (tmp_path / "runs" / "mine" / "summary.json").is_file()


def _draw_cells(folder: Path) -> None:
    """Writes ``cells/<class>/patient_<number>_<image>.png``, 20 patients, and ``cell.png``."""
    rng = np.random.default_rng(0)
    for patient in range(20):
        for number in range(3):
            label = "blast" if patient % 2 else "normal"
            place = folder / "cells" / label
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((40, 40, 3), np.uint8)
            half = 14 if patient % 2 else 8
            shape = (2 * half, 2 * half, 3)
            pixels[20 - half : 20 + half, 20 - half : 20 + half] = rng.integers(90, 220, shape)
            Image.fromarray(pixels).save(place / f"patient_{patient:02d}_{number}.png")
            Image.fromarray(pixels).save(folder / "cell.png")


def _seeded(model: str) -> dict[str, np.ndarray]:
    """Tensors of a ResNet in timm's layout, at leukjax's own initial values."""
    module = create_model(model, num_classes=1000)
    images = jnp.zeros((1, 32, 32, 3))
    tree = jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), images)
    flat = traverse_util.flatten_dict({name: tree[name] for name in ("params", "batch_stats")})
    values = {path: np.asarray(value) for path, value in flat.items()}
    return layouts.timm_tensors("resnet", values, 0)


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """Images named as `custom_dataset.py` reads them."""
    folder = tmp_path_factory.mktemp("plates")
    rng = np.random.default_rng(0)
    for plate in ("P7", "P8"):
        for well in range(12):
            for number in range(4):
                label = "big" if well % 2 else "tiny"
                pixels = rng.integers(180, 256, (40, 40, 3), dtype=np.uint8)
                half = 12 if well % 2 else 6
                pixels[20 - half : 20 + half, 20 - half : 20 + half] //= 3
                name = f"{plate}_A{well}_{label}_{number}.png"
                Image.fromarray(pixels).save(folder / name)
    return folder


SMALL = {
    "data.image_size": 32,
    "model.width": 8,
    "train.batch_size": 16,
    "train.epochs": 2,
}


def command(name, *flags, **fields):
    """A leukjax command with fields of the config."""
    changes = [f"--config.{field}={value}" for field, value in fields.items()]
    return ["-m", f"leukjax.{name}", *map(str, flags), *changes]


def test_custom_optimizer_and_dataset_train_by_the_command(plates, tmp_path):
    modules = ",".join(str(EXAMPLES / f"custom_{what}.py") for what in ("dataset", "optimizer"))
    fields = SMALL | {
        "data.name": "plates",
        "data.root": plates,
        "data.plate": "P7",
        "optimizer.name": "sign_momentum",
        "optimizer.options": "decay=0.95",
        "data.cache_dir": tmp_path / "cache",
    }
    train = command("main", f"--import={modules}", "--config=cnn", f"--workdir={tmp_path / 'run'}")
    run(*train, *[f"--config.{field}={value}" for field, value in fields.items()])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["plate"] == "P7"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"] == "plates"
    assert json.loads((tmp_path / "run" / "data.json").read_text())["images"] == 48
    # Without --import the run is refused in one line, which names the flag.
    image = next(plates.glob("*.png"))
    predict = [sys.executable, "-m", "leukjax.predict", f"--workdir={tmp_path / 'run'}", image]
    refused = subprocess.run(list(map(str, predict)), capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "add --import=FILE" in refused.stderr
