"""Files of weights in the layouts of others, filled by the golden rules."""

import json
from pathlib import Path

import fill
import numpy as np
import published_npz
from flax import linen as nn
from safetensors.numpy import save_file

from leukjax.models.registry import create_model, select_options
from leukjax.training import pretrained
from leukjax.weights import layouts
from leukjax.weights.map import Mapped, match
from leukjax.weights.read import Tensors, open_file

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "weight_files.json").read_text()
)
NPZ = {
    "bit_npz": published_npz.bit((3, 4, 6, 3), 32, 10),
    "hybrid_npz": published_npz.hybrid((2, 2), 192, 6, 3, 17, 10),
}


def shapes_of(listed: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """``{"fc.bias": "10"}`` -> ``{"fc.bias": (10,)}``."""
    return {name: tuple(map(int, text.split("x"))) if text else () for name, text in listed.items()}


def write(name: str, folder: Path) -> Path:
    """The file of one golden model."""
    if name in NPZ:
        path = folder / "weights.npz"
        arrays = {key: published_npz.values(key, shape) for key, shape in NPZ[name].items()}
        np.savez(path, **arrays)
        return path
    path = folder / "weights.safetensors"
    save_file(torch_tensors(shapes_of(GOLDEN["models"][name]["tensors"])), path)
    return path


def torch_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict in PyTorch's layout."""
    return {
        key: np.zeros(shape, np.int64) if not shape else np.ascontiguousarray(
            fill.parameter(key, shape), np.float32
        )
        for key, shape in shapes.items()
    }  # fmt: skip


def load(path: Path, classes: int, image_size: int, **options) -> tuple[nn.Module, Mapped]:
    """The model that a file calls for, and the file mapped to it."""
    tensors = open_file(path)
    layout = layouts.recognize(str(path), tensors.shapes)
    wanted = layouts.model_of(layout, tensors.shapes)
    norm = "batch" if layout.model == "resnet" else "group"
    fields = {"norm": norm, "gelu_tanh": False, **wanted}
    name = fields["name"]
    module = create_model(name, classes, **select_options(name, fields))
    return module, map_to(module, image_size, tensors, layout, **options)


def map_to(
    module: nn.Module, image_size: int, tensors: Tensors, layout: layouts.Layout, **options
) -> Mapped:
    """The tensors mapped to a model."""
    import flax

    flat = flax.traverse_util.flatten_dict(pretrained.shapes(module, image_size))
    ours = {key: leaf.shape for key, leaf in flat.items()}
    return match(
        ours,
        layout.prepare(tensors),
        layout.names,
        layout.axes,
        **{"new_head": False, "allow": "", "positions": layout.positions, **options},
    )


def only_shapes(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Tensors of zeros that take no memory."""
    return Tensors(
        where="shapes",
        shapes=shapes,
        floats=frozenset(shapes),
        metadata={},
        get=lambda name: np.broadcast_to(np.float32(0), shapes[name]),
    )
