"""Our weights in timm's layout, so that whoever uses PyTorch can load them."""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from leukjax.errors import UserError
from leukjax.weights.axes import to_torch
from leukjax.weights.layouts import TIMM
from leukjax.weights.names import Path


def timm_tensors(
    family: str, variables: Mapping[Path, np.ndarray], steps: int
) -> dict[str, np.ndarray]:
    """The state dict of timm's model: every variable under timm's name, outputs first.

    Args:
      family: ``model.name``.
      variables: by path, collection first.
      steps: of training, for the counters that PyTorch's BatchNorm keeps.

    Raises:
      UserError: timm has no such family.
    """
    if family not in TIMM:
        raise UserError(
            f"--format=safetensors: timm has no {family}; it has {', '.join(TIMM)}; choose another "
            "format"
        )
    tensors = {}
    for path, value in variables.items():
        (name,) = TIMM[family].names(path)
        tensors[name] = np.ascontiguousarray(to_torch(value, name))
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            tensors[counter] = np.array(steps, np.int64)
    return tensors


def safetensors(tensors: Mapping[str, np.ndarray], description: str) -> bytes:
    """The content of a .safetensors file.

    Args:
      tensors: by name.
      description: JSON of the run (mean, std, classes, …), kept under the key ``leukjax``.
    """
    # "format" is what PyTorch's programs look for.
    return save(dict(sorted(tensors.items())), {"format": "pt", "leukjax": description})
