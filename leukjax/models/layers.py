"""Layers that several models share: convolutions, stochastic depth, recomputation of blocks.

On CPU a convolution is lowered to matrix products (`cpu.convolution`), on other platforms to the
native convolution. The choice is made at lowering and not at tracing, so that a traced model can be
exported for another platform.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import initializers
from leukjax.models.cpu import convolution
from leukjax.models.cpu.convolution import Pads, Pair

Padding = str | Pads

NORMS = ("batch", "group", "frozen")  # of the option `norm`

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_ONE_PIXEL: dict[str, Any] = {"strides": (1, 1), "pads": ((0, 0), (0, 0))}


def conv(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
) -> Float[Array, "n p q o"]:
    """Two-dimensional convolution (cross-correlation, as everywhere in deep learning).

    Differentiable in reverse mode. Equal to ``lax.conv_general_dilated`` up to the order of sums.

    Args:
      x: images or features, float32 or bfloat16.
      kernel: same dtype, height x width x inputs x outputs.
      strides: rows, columns.
      padding: ``"SAME"`` and ``"VALID"`` as in TensorFlow, ``"HALF"`` of the window on every side
        as in PyTorch (differs from SAME where the stride is above 1), or the number of zeros to
        add: ((top, bottom), (left, right)).
    """
    pads = resolve_padding(padding, x.shape[1:3], kernel.shape[:2], strides)
    return _conv(strides, pads)(x, kernel)


def dot_general(
    x: Float[Array, "*b i"],
    kernel: Float[Array, "i *o"],
    dimension_numbers: lax.DotDimensionNumbers,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "..."]:
    """Product of a fully connected layer of Flax: on CPU, a convolution of one pixel.

    Differentiable in reverse mode. Equal to ``lax.dot_general`` up to the order of sums.

    Args:
      x: features, float32 or bfloat16.
      kernel: same dtype.
      dimension_numbers: the last axis of `x` with the first of `kernel`, nothing else.
      precision: the default.
    """
    assert dimension_numbers == _last_with_first(x), dimension_numbers
    assert precision is None
    return _dense(x, kernel)


Product = Callable[[Array, Array], Array]


def _by_platform(
    native: Product,
    cpu_forward: Product,
    cpu_gradients: Callable[[Array, Array, Array], tuple[Array, Array]],
) -> Product:
    """Returns a product of features and a kernel that has a form of its own on CPU.

    A custom_vjp around the choice, not a choice between two differentiable forms: JAX would keep
    what each of them needs for its gradient.
    """

    @jax.custom_vjp
    def product(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, cpu=cpu_forward, default=native)

    def native_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(native, x, kernel)[1](gradient)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return product(x, kernel), (x, kernel)

    def backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        return lax.platform_dependent(*saved, gradient, cpu=cpu_gradients, default=native_gradients)

    product.defvjp(forward, backward)
    return product


@functools.cache
def _conv(strides: Pair, pads: Pads) -> Product:
    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)

    return _by_platform(
        native,
        functools.partial(convolution.forward, strides=strides, pads=pads),
        functools.partial(convolution.gradients, strides=strides, pads=pads),
    )


def _last_with_first(x: Array) -> lax.DotDimensionNumbers:
    return ((x.ndim - 1,), (0,)), ((), ())


def _dense_native(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, _last_with_first(x))


def _dense_cpu(x: Array, kernel: Array) -> Array:
    y = convolution.forward(_as_pixels(x), _as_window(kernel), **_ONE_PIXEL)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def _dense_cpu_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    window = _as_window(kernel)
    gradient = gradient.reshape(-1, 1, 1, window.shape[-1])
    by_x, by_kernel = convolution.gradients(_as_pixels(x), window, gradient, **_ONE_PIXEL)
    return by_x.reshape(x.shape), by_kernel.reshape(kernel.shape)


def _as_pixels(x: Array) -> Array:
    return x.reshape(-1, 1, 1, x.shape[-1])


def _as_window(kernel: Array) -> Array:
    return kernel.reshape(1, 1, kernel.shape[0], -1)


_dense = _by_platform(_dense_native, _dense_cpu, _dense_cpu_gradients)


def resolve_padding(
    padding: Padding, size: Sequence[int], window: Sequence[int], strides: Pair
) -> Pads:
    """Returns the number of zeros that a padding adds: ((top, bottom), (left, right))."""
    if not isinstance(padding, str):
        return padding
    if padding == "HALF":
        return (window[0] // 2, window[0] // 2), (window[1] // 2, window[1] // 2)
    (top, bottom), (left, right) = lax.padtype_to_pads(size, window, strides, padding)
    return (top, bottom), (left, right)


class Conv(nn.Module):
    """A convolution without bias, with the parameter ``kernel`` as in ``nn.Conv``."""

    features: int
    window: Pair
    strides: Pair = (1, 1)
    padding: Padding = "SAME"
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = initializers.he_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q o"]:
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.weights(self.param("kernel", self.kernel_init, shape, jnp.float32))
        return self.convolve(x.astype(self.dtype), kernel)

    def weights(self, kernel: Float[Array, "kh kw c o"]) -> Float[Array, "kh kw c o"]:
        """Returns the float32 weights of the convolution."""
        return kernel

    def convolve(
        self, x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"]
    ) -> Float[Array, "n p q o"]:
        """Returns the convolution of features with the weights."""
        return conv(x, kernel.astype(self.dtype), self.strides, self.padding)


class StandardizedConv(Conv):
    """A convolution with weight standardisation (Qiao et al. 2019).

    The weights of each output channel are scaled to mean 0 and variance 1.

    Attributes:
      in_variance: add 1e-10 to the variance, as Big Transfer does, instead of 1e-5 to the
        deviation, as google-research's hybrids do.
    """

    in_variance: bool = False

    def weights(self, kernel: Float[Array, "kh kw c o"]) -> Float[Array, "kh kw c o"]:
        """Returns the standardised float32 weights."""
        # Two axes: XLA:CPU sums over leading axes of size 1 many times slower.
        flat = kernel.reshape(-1, kernel.shape[-1])
        centred = flat - jnp.mean(flat, 0)
        variance = jnp.mean(jnp.square(centred), 0)
        if self.in_variance:
            return (centred * lax.rsqrt(variance + 1e-10)).reshape(kernel.shape)
        return (centred / (jnp.sqrt(variance) + 1e-5)).reshape(kernel.shape)


def check_options(model: nn.Module, **choices: Collection[Any]) -> None:
    """Checks the options that most models have, and those with given choices.

    Raises:
      ValueError: naming the first option with a wrong value.
    """
    for name in ("zero_init", "remat"):
        choices[name] = (True, False)
    for name, allowed in {"norm": NORMS, **choices}.items():
        value: Any = getattr(model, name, None)
        if value is not None and value not in allowed:
            raise UserError(f"{name}={value}: must be one of {', '.join(map(str, allowed))}")
    for name, low in (("width", 1), ("norm_batch", 0)):
        value = getattr(model, name, low)
        if value < low:
            raise UserError(f"{name}={value}: must be at least {low}")
    for name in ("dropout", "stochastic_depth"):
        value = getattr(model, name, 0.0)
        if not 0 <= value < 1:
            raise UserError(f"{name}={value}: a probability, at least 0 and less than 1")


def add_perturbation(
    module: nn.Module, name: str, x: Float[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """Returns `x`, plus the caller's value in the collection ``perturbations`` if there is one.

    The gradient with respect to a perturbation of zeros is the gradient with respect to `x`. Flax's
    own ``perturb`` creates variables at initialisation; this adds nothing unless it is used.
    """
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name).astype(x.dtype)
    return x


def run_block(block: nn.Module, x: Float[Array, "n *dims"], *, train: bool, remat: bool) -> Any:
    """Returns ``block(x, train=train)``; with `remat` the backward pass recomputes its inside.

    Then only the input of the block is kept (Chen et al. 2016, "Training deep nets with sublinear
    memory cost"). Parameters, their names and the result are the same.
    """
    call = lambda block, x: block(x, train=train)  # noqa: E731
    return (nn.remat(call) if remat and train else call)(block, x)


class StochasticDepth(nn.Module):
    """Drops whole images from a residual branch in training (Huang et al. 2016)."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "n *dims"], *, train: bool) -> Float[Array, "n *dims"]:
        if self.rate == 0 or not train:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def stochastic_depth_rates(last: float, blocks: int) -> list[float]:
    """Returns stochastic-depth rates that grow linearly from 0 at the first block."""
    return [last * number / max(1, blocks - 1) for number in range(blocks)]
