"""The rule by which our models and the references are filled with the same numbers.

Needs NumPy only. Every number is a function of a parameter's name in timm, so that both sides can
make them without a file of weights. Philox's raw output is the same in every version of NumPy.
"""

import hashlib
import math

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers with mean 0 and variance 1, float32, drawn from the name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    numbers = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (numbers * np.float32(math.sqrt(3))).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a timm parameter, in PyTorch's layout (out, in, …), float32."""
    numbers = uniform(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(numbers)
    if name.endswith("weight") and len(shape) == 1:  # scale of a normalisation
        return 1 + 0.2 * numbers
    if name.endswith("weight"):
        return numbers * np.float32(math.sqrt(1.5 / math.prod(shape[1:])))
    return 0.2 * numbers  # biases, running means, class token, position embeddings


def images(count: int, size: int) -> np.ndarray:
    """Normalised images, float32[count, size, size, 3]."""
    return uniform("images", (count, size, size, 3))
