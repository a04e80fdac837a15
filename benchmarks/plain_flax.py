"""Contender: the models in plain Flax, as in its ImageNet example, fed with float images.

``nn.Conv``, ``nn.BatchNorm`` or ``nn.GroupNorm`` and ``nn.max_pool``, nothing of leukjax. Sizes and
numbers of parameters are those of `leukjax.models`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from harness import Round, device_memory, repeated, serve, with_memory
from jaxtyping import Array, DTypeLike, Float

Images = Float[Array, "n h w 3"]
Logits = Float[Array, "n c"]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut."""

    width: int
    strides: tuple[int, int]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), self.strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(4 * self.width, (1, 1), self.strides)(x))
        return nn.relu(x + y)


def _stages(x: Array, stages: tuple[int, ...], conv: Any, norm: Any) -> Array:
    x = nn.relu(norm()(conv(64, (7, 7), (2, 2))(x)))
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    for stage, blocks in enumerate(stages):
        for number in range(blocks):
            strides = (2, 2) if stage > 0 and number == 0 else (1, 1)
            x = Bottleneck(64 * 2**stage, strides, conv, norm)(x)
    return x


class ResNet50(nn.Module):
    """ResNet-50."""

    classes: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = True) -> Logits:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype
        )
        x = _stages(x, (3, 4, 6, 3), conv, norm)
        return nn.Dense(self.classes)(jnp.mean(x, (1, 2)).astype(jnp.float32))


class CNN(nn.Module):
    """Four stages of convolution, BatchNorm, ReLU and pooling, then two dense layers."""

    classes: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = True) -> Logits:
        for stage in range(4):
            x = nn.Conv(32 * 2**stage, (3, 3), use_bias=False, dtype=self.dtype)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x.astype(jnp.float32))


class StdConv(nn.Conv):
    """A convolution with standardised weights, as in google-research/vision_transformer."""

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Returns the parameter, standardised if it is the kernel."""
        value = super().param(name, *args, **kwargs)
        if name != "kernel":
            return value
        centred = value - jnp.mean(value, (0, 1, 2))
        return centred / (jnp.std(value, (0, 1, 2)) + 1e-5)


class Encoder(nn.Module):
    """Class token, position embedding, pre-norm blocks, and a head on the class token."""

    width: int
    depth: int
    heads: int
    classes: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Logits:
        token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)).astype(x.dtype), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for _ in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y, y)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x = x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y))
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0].astype(jnp.float32))


class HybridViT(nn.Module):
    """R26+ViT-S/32."""

    classes: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = True) -> Logits:
        conv = functools.partial(StdConv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(nn.GroupNorm, dtype=self.dtype)
        x = _stages(x, (2, 2, 2, 2), conv, norm)
        x = nn.Dense(384, dtype=self.dtype)(x.reshape(x.shape[0], -1, x.shape[-1]))
        return Encoder(384, 12, 6, self.classes, self.dtype)(x)


class ViT(nn.Module):
    """A vision transformer with patches of 16 pixels."""

    width: int
    heads: int
    classes: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool = True) -> Logits:
        x = nn.Conv(self.width, (16, 16), (16, 16), dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        return Encoder(self.width, 12, self.heads, self.classes, self.dtype)(x)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "resnet50": ResNet50,
    "hybrid": HybridViT,
    "vit_s16": functools.partial(ViT, 384, 6),
    "vit_b16": functools.partial(ViT, 768, 12),
}


def make_step(name: str, dtype: DTypeLike, optimizer: optax.GradientTransformation) -> Any:
    """Returns ``init(images) -> state`` and ``step(state, images, labels) -> (state, loss)``."""
    module = MODELS[name](dtype=dtype)

    def init(images: Images) -> Any:
        variables = module.init(jax.random.key(0), images)
        params = variables["params"]
        return params, variables.get("batch_stats", {}), optimizer.init(params)

    def step(state: Any, images: Images, labels: Array) -> tuple[Any, Array]:
        params, statistics, slots = state

        def loss_of(params: Any) -> Any:
            logits, updated = module.apply(
                {"params": params, "batch_stats": statistics}, images, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), updated.get("batch_stats", {})

        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        directions, slots = optimizer.update(grads, slots, params)
        return (optax.apply_updates(params, directions), new, slots), loss

    return init, step


def make_predict(name: str, dtype: DTypeLike) -> Any:
    """Returns ``init(images) -> variables`` and ``predict(variables, images) -> logits``."""
    module = MODELS[name](dtype=dtype)

    def predict(variables: Any, images: Images) -> Any:
        return module.apply(variables, images, train=False)

    return lambda images: module.init(jax.random.key(0), images), predict


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Compiles the training step or the prediction, warms up."""
    rng = np.random.default_rng(0)
    shape = (spec["batch"], spec["image_size"], spec["image_size"], 3)
    images = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(0, 2, spec["batch"]).astype(np.int32)
    dtype = jnp.dtype(spec["precision"])
    device = jax.devices()[0]
    if spec["task"] == "train":
        init, step = make_step(spec["model"], dtype, optax.adam(1e-3))
        jitted = jax.jit(step, donate_argnums=0)
        held = [jax.jit(init)(images)]

        def once() -> jax.Array:
            held[0], loss = jitted(held[0], images, labels)
            return loss
    else:
        init, predict = make_predict(spec["model"], dtype)
        forward = jax.jit(predict)
        variables = jax.jit(init)(images)

        def once() -> jax.Array:
            return forward(variables, images)

    about = {"device": device.device_kind, "versions": f"jax {jax.__version__}"}
    run = repeated(once, jax.block_until_ready, spec["seconds"], spec.get("wait_each", False))
    return about, with_memory(run, lambda: device_memory(device))


if __name__ == "__main__":
    serve(prepare)
