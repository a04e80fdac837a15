"""The network that is explained: its score, and gradients with respect to its layers."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from leukjax.errors import UserError

Kind = Literal["log_odds", "logit"]
Form = Literal["convolutional", "transformer", "vit", "other"]
FEATURE_MAP = "feature_map"  # name in every model of the last map before pooling or tokens

# A smaller map does not localise. At 224 px every model has a larger one.
LEAST_SIDE = 4


class Network(NamedTuple):
    """A module (of `leukjax.models`, or with the same `intermediates`) with its variables."""

    module: nn.Module
    variables: Any

    def logits(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        """Returns the logits of normalised images."""
        logits: Any = self.module.apply(self.variables, images, train=False)
        return logits.astype(jnp.float32)

    def intermediates(self, images: Float[Array, "n h w 3"]) -> dict[str, Any]:
        """Returns the intermediates that the module sows, each a tuple."""
        _, state = self.module.apply(self.variables, images, train=False, mutable=["intermediates"])
        return state.get("intermediates", {})


def score(logits: Float[Array, "n c"], targets: Int[Array, " n"], kind: Kind) -> Float[Array, " n"]:
    """Returns the explained score of each image.

    Args:
      logits: of the network.
      targets: a class for each image.
      kind: ``log_odds``: log p / (1 - p) of the class, which is its logit minus the logsumexp of
        the others (for two classes: their difference). ``logit``: the logit of the class alone, as
        in the literature on Grad-CAM; unlike a softmax it depends on what all logits have in
        common.
    """
    target = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    if kind == "logit":
        return target
    others = jnp.where(jnp.arange(logits.shape[1]) == targets[:, None], -jnp.inf, logits)
    return target - jax.nn.logsumexp(others, axis=1)


def layer_gradient(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    layer: str,
    kind: Kind,
) -> tuple[Float[Array, "n p q c"], Float[Array, "n p q c"]]:
    """Returns the output of a layer, and the gradient of each image's score with respect to it.

    Args:
      layer: ``feature_map``, or a name of `layers`.

    Raises:
      ValueError: the network has no such layer.
    """
    outputs = jax.eval_shape(functools.partial(_forward, network, layer), images, 0.0)[1]
    zeros = jnp.zeros(outputs.shape, outputs.dtype)

    def total(added: Array) -> tuple[Array, Array]:
        logits, output = _forward(network, layer, images, added)
        return score(logits, targets, kind).sum(), output

    gradient, output = jax.grad(total, has_aux=True)(zeros)
    return output.astype(jnp.float32), gradient.astype(jnp.float32)


def attention_gradients(
    network: Network, images: Float[Array, "n h w 3"], targets: Int[Array, " n"], kind: Kind
) -> tuple[tuple[Array, ...], list[Array]]:
    """Returns the attention of each block, and the gradient of each image's score."""
    shapes = jax.eval_shape(lambda: network.intermediates(images)["attention"])
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def total(added: list[Array]) -> tuple[Array, tuple[Array, ...]]:
        blocks = {f"block{i}": {"attn": {"attention": value}} for i, value in enumerate(added)}
        logits, state = network.module.apply(
            {**network.variables, "perturbations": blocks},
            images,
            train=False,
            mutable=["intermediates"],
        )
        weights = state["intermediates"]["attention"]
        return score(logits.astype(jnp.float32), targets, kind).sum(), weights

    gradients, weights = jax.grad(total, has_aux=True)(zeros)
    return weights, gradients


def layers(network: Network, size: int) -> dict[str, tuple[int, int, int]]:
    """Returns the layers for class activation maps: name -> rows, columns, channels.

    In the order of the computation: every submodule whose output is a map (a convolution, a
    normalisation, a block, at any depth, as in "layer3_5" or "layer3_5/conv1"), then
    ``feature_map`` if the module adds its perturbation (`leukjax.models.layers`).
    """
    shapes: dict[str, tuple[int, int, int]] = {}

    def record(next_function, arguments, options, context) -> Any:
        output = next_function(*arguments, **options)
        name = "/".join(context.module.path)
        if context.method_name == "__call__" and name and getattr(output, "ndim", 0) == 4:
            shapes[name] = output.shape[1:]
        return output

    def run(images: Array) -> Any:
        with nn.intercept_methods(record):
            return network.intermediates(images)

    sown = jax.eval_shape(run, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    # The attention of a transformer has four axes too: images, heads, tokens, tokens.
    known = {name: shape for name, shape in shapes.items() if not name.endswith("attn")}
    if FEATURE_MAP in sown and _is_perturbed(network, size, sown[FEATURE_MAP][0]):
        known[FEATURE_MAP] = sown[FEATURE_MAP][0].shape[1:]
    return known


def _is_perturbed(network: Network, size: int, feature_map: jax.ShapeDtypeStruct) -> bool:
    """Returns whether the logits use the perturbation of ``feature_map``; else gradients are 0."""
    images = jnp.zeros((1, size, size, 3))
    jaxpr = jax.make_jaxpr(lambda added: _forward(network, FEATURE_MAP, images, added)[0])(
        feature_map
    ).jaxpr
    return any(operand is jaxpr.invars[0] for eqn in jaxpr.eqns for operand in eqn.invars)


def form_of(network: Network, size: int) -> Form:
    """Returns the kind of a network, as far as attribution methods depend on it.

    It is ``transformer`` if it sows ``attention``; then ``vit`` if its feature map is one of tokens
    too, because no other map is larger; ``convolutional`` if the output of any layer is a map, else
    ``other``.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    known = layers(network, size)
    if "attention" in jax.eval_shape(network.intermediates, images):
        one_size = FEATURE_MAP in known and len({shape[:2] for shape in known.values()}) == 1
        return "vit" if one_size else "transformer"
    return "convolutional" if known else "other"


def choose_layer(network: Network, size: int) -> str:
    """Returns the deepest layer that still localises: ``feature_map``, or the last block before.

    The last map is the choice of the literature, and the default if it has at least 4 x 4
    positions. For a small image the last map of a deep network has 2 x 2, which cannot separate a
    nucleus from its surroundings; then the last block of an earlier stage is taken. If no block has
    4 x 4 either, ``feature_map``. In a network that sows no ``feature_map`` it is the last layer
    with 4 x 4 positions.
    """
    known = layers(network, size)
    large = [name for name, shape in known.items() if min(shape[:2]) >= LEAST_SIDE]
    if FEATURE_MAP in large:
        return FEATURE_MAP
    if FEATURE_MAP not in known:
        return [*known, *large][-1]
    blocks = [name for name in large if name.startswith(("layer", "stage")) and "/" not in name]
    return blocks[-1] if blocks else FEATURE_MAP


def check_layer(network: Network, size: int, layer: str) -> None:
    """Raises UserError if the network has no such layer."""
    known = layers(network, size)
    if layer not in known:
        short = [name for name in known if "/" not in name]
        raise UserError(
            f"--layer={layer}: no such layer; one of {', '.join(short)}, or a submodule, as in "
            f"{next((name for name in known if '/' in name), short[0])}"
        )


def _forward(network: Network, layer: str, images: Array, added: Any) -> tuple[Array, Array]:
    """Returns the logits and the output of a layer, after adding `added` to that output."""
    if layer == FEATURE_MAP:
        variables = network.variables
        if not isinstance(added, float):
            variables = {**variables, "perturbations": {FEATURE_MAP: added}}
        logits, state = network.module.apply(
            variables, images, train=False, mutable=["intermediates"]
        )
        return logits.astype(jnp.float32), state["intermediates"][FEATURE_MAP][0]
    outputs = []

    def add(next_function, arguments, options, context) -> Any:
        output = next_function(*arguments, **options)
        if context.method_name == "__call__" and "/".join(context.module.path) == layer:
            output = output + added
            outputs.append(output)
        return output

    with nn.intercept_methods(add):
        logits = network.logits(images)
    if not outputs:
        raise ValueError(f"the network has no layer {layer!r}")
    return logits, outputs[0]
