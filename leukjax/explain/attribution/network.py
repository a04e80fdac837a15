"""A network as attribution sees it: a score to explain, and gradients by what stands inside."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from leukjax.errors import UserError

Kind = Literal["log_odds", "logit"]
Form = Literal["convolutional", "transformer", "other"]
FEATURE_MAP = "feature_map"  # what every model names so: the last map before pooling or tokens

# A map of fewer places a side than this points at nothing. At 224 px all models have more.
LEAST_PLACES = 4


class Network(NamedTuple):
    """A module of `leukjax.models` (or with the same `intermediates`) and its variables."""

    module: nn.Module
    variables: Any

    def logits(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        """Of normalised images."""
        logits: Any = self.module.apply(self.variables, images, train=False)
        return logits.astype(jnp.float32)

    def seen(self, images: Float[Array, "n h w 3"]) -> dict[str, Any]:
        """Returns the intermediates that the module sows, each a tuple."""
        _, kept = self.module.apply(self.variables, images, train=False, mutable=["intermediates"])
        return kept.get("intermediates", {})


def score(logits: Float[Array, "n c"], targets: Int[Array, " n"], kind: Kind) -> Float[Array, " n"]:
    """What is explained, for each image.

    Args:
      logits: of the network.
      targets: a class for each image.
      kind: ``log_odds``: log p / (1 - p) of the class, which is its logit less the logsumexp of the
        others (of two classes: their difference). ``logit``: the class' logit alone, as the
        literature on Grad-CAM has it; a softmax ignores what all logits share, this does not.
    """
    own = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    if kind == "logit":
        return own
    others = jnp.where(jnp.arange(logits.shape[1]) == targets[:, None], -jnp.inf, logits)
    return own - jax.nn.logsumexp(others, axis=1)


def tapped(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    layer: str,
    kind: Kind,
) -> tuple[Float[Array, "n p q c"], Float[Array, "n p q c"]]:
    """What a layer gives, and the gradient of each image's score by it.

    Args:
      layer: ``feature_map``, or a name of `layers`.

    Raises:
      UserError: the network has no such layer.
    """
    outputs = jax.eval_shape(functools.partial(_through, network, layer), images, 0.0)[1]
    zeros = jnp.zeros(outputs.shape, outputs.dtype)

    def total(added: Array) -> tuple[Array, Array]:
        logits, output = _through(network, layer, images, added)
        return score(logits, targets, kind).sum(), output

    gradient, output = jax.grad(total, has_aux=True)(zeros)
    return output.astype(jnp.float32), gradient.astype(jnp.float32)


def layers(network: Network, size: int) -> dict[str, tuple[int, int, int]]:
    """Layers that a class activation map can be taken at: name -> rows, columns, channels.

    In the order of the computation: every part of the module that gives a map (a convolution, a
    normalisation, a block, at any depth, as in "layer3_5" or "layer3_5/conv1"), then
    ``feature_map``.
    """
    found: dict[str, tuple[int, int, int]] = {}

    def note(next_function, arguments, options, context) -> Any:
        output = next_function(*arguments, **options)
        name = "/".join(context.module.path)
        if context.method_name == "__call__" and name and getattr(output, "ndim", 0) == 4:
            found[name] = output.shape[1:]
        return output

    def run(images: Array) -> Any:
        with nn.intercept_methods(note):
            return network.seen(images)

    kept = jax.eval_shape(run, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    # Of a transformer "attention" has four axes, too: images, heads, tokens, tokens.
    places = {name: shape for name, shape in found.items() if not name.endswith("attn")}
    if FEATURE_MAP in kept and _takes_perturbations(network, size):
        places[FEATURE_MAP] = kept[FEATURE_MAP][0].shape[1:]
    return places


def _takes_perturbations(network: Network, size: int) -> bool:
    """Whether perturbations are added to the feature map (`models.layers.add_perturbation`).

    A module may sow its feature map and not add them; then their gradient would be 0. A
    perturbation with an axis more than the feature map shows it: the axis is then in the output.
    """
    variables = {**network.variables, "perturbations": {FEATURE_MAP: jnp.zeros((2, 1, 1, 1, 1))}}
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    try:
        kept = jax.eval_shape(network._replace(variables=variables).seen, images)
    except (TypeError, ValueError):  # a later layer refuses the axis
        return True
    return kept[FEATURE_MAP][0].ndim == 5


def form_of(network: Network, size: int) -> Form:
    """Returns what a network computes with, as far as attribution methods depend on it.

    It is ``transformer`` if it sows ``attention``, ``convolutional`` if any of its layers gives a
    map, else ``other``.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if "attention" in jax.eval_shape(network.seen, images):
        return "transformer"
    return "convolutional" if layers(network, size) else "other"


def choose_layer(network: Network, size: int) -> str:
    """The deepest map that still points at places: ``feature_map``, or the last block before.

    The last map is the literature's choice, and ours wherever it has 4 x 4 places. Of a small image
    a deep network's last map has 2 x 2, which cannot tell a nucleus from its surroundings; then the
    last block of an earlier stage is taken. Where no block has 4 x 4 either, ``feature_map``.
    Of a network that sows no ``feature_map`` it is the last layer with 4 x 4 places.
    """
    known = layers(network, size)
    enough = [name for name, shape in known.items() if min(shape[:2]) >= LEAST_PLACES]
    if FEATURE_MAP in enough:
        return FEATURE_MAP
    if FEATURE_MAP not in known:
        return [*known, *enough][-1]
    blocks = [name for name in enough if name.startswith(("layer", "stage")) and "/" not in name]
    return blocks[-1] if blocks else FEATURE_MAP


def check_layer(network: Network, size: int, layer: str) -> None:
    """Raises UserError where the network has no such layer."""
    known = layers(network, size)
    if layer not in known:
        short = [name for name in known if "/" not in name]
        raise UserError(
            f"--layer={layer}: no such layer; one of {', '.join(short)}, or a part of one, as in "
            f"{next((name for name in known if '/' in name), short[0])}"
        )


def side(places: int) -> int:
    """Places a side of a square map."""
    return math.isqrt(places)


def _through(network: Network, layer: str, images: Array, added: Any) -> tuple[Array, Array]:
    """Logits, and what the layer gives, to which `added` is added on the way."""
    if layer == FEATURE_MAP:
        variables = network.variables
        if not isinstance(added, float):
            variables = {**variables, "perturbations": {FEATURE_MAP: added}}
        logits, kept = network.module.apply(
            variables, images, train=False, mutable=["intermediates"]
        )
        return logits.astype(jnp.float32), kept["intermediates"][FEATURE_MAP][0]
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
        raise UserError(f"--layer={layer}: the network has no such layer")
    return logits, outputs[0]
