"""The attribution methods by name: which networks each supports, and one function for all."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leukjax.errors import UserError
from leukjax.explain import maps
from leukjax.explain.network import (
    FEATURE_MAP,
    Form,
    Kind,
    Network,
    attention_gradients,
    layer_gradient,
)


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
      title: name for readers.
      fits: the forms of networks that it supports (`network.form_of`); none named: all.
      signed: maps have negative values too, for evidence against the class.
      pixels: maps have the size of the image; others that of a layer.
    """

    title: str
    fits: tuple[Form, ...] = ()
    signed: bool = False
    pixels: bool = False

    @property
    def of_layer(self) -> bool:
        """Whether it is a class activation map, of the output of a layer."""
        return "convolutional" in self.fits


METHODS = {
    "gradcam": Method("Grad-CAM", ("convolutional", "vit")),
    "gradcam++": Method("Grad-CAM++", ("convolutional",)),
    "hirescam": Method("HiResCAM", ("convolutional", "vit")),
    "rollout": Method("Attention rollout", ("transformer", "vit")),
    "attention": Method("Gradient-weighted attention", ("transformer", "vit")),
    "integrated_gradients": Method("Integrated gradients", signed=True, pixels=True),
    "occlusion": Method("Occlusion", signed=True, pixels=True),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Parameters of the methods; hashable, for jit.

    Attributes:
      layer: of class activation maps.
      kind: see `network.score`.
      steps, power: of integrated gradients.
      window, stride: of occlusion, in pixels.
    """

    layer: str = FEATURE_MAP
    kind: Kind = "log_odds"
    steps: int = 64
    power: int = 1
    window: int = 8
    stride: int = 4


def fits(method: str, form: Form) -> bool:
    """Returns whether a method supports networks of a form."""
    return not METHODS[method].fits or form in METHODS[method].fits


def defaults(form: Form) -> tuple[str, ...]:
    """Returns the default methods: one that is fast and coarse, one that is exact and noisy."""
    coarse = {"convolutional": "gradcam", "other": "occlusion"}.get(form, "attention")
    return coarse, "integrated_gradients"


def check(methods: Sequence[str], models: Sequence[tuple[str, Form]]) -> None:
    """Checks that each method supports one of the models, and each model has one of the methods.

    Args:
      methods: names.
      models: name and form of each model.

    Raises:
      UserError: it does not, or a name is unknown or repeated.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--method={name}: no such method; one of {', '.join(METHODS)}")
        if methods.count(name) > 1:
            raise UserError(f"--method={name}: is given twice; give it once")
        if not any(fits(name, form) for _, form in models):
            raise UserError(f"--method={name}: {_unsupported(*models[0])}")
    for model, form in models:
        if not any(fits(name, form) for name in methods):
            raise UserError(f"--method={','.join(methods)}: {_unsupported(model, form)}; add one")


def _unsupported(model: str, form: Form) -> str:
    supported = ", ".join(name for name in METHODS if fits(name, form))
    return f"is not for {model}, which has {supported}"


def attribute(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    method: str,
    settings: Settings,
    baseline: Float[Array, "#n #h #w 3"],
    segment: tuple[Float[Array, ""] | float, Float[Array, ""] | float] = (0.0, 1.0),
) -> Float[Array, "n p q"]:
    """Returns the maps of one method, which must support the network.

    Args:
      images: normalised.
      targets: the explained class of each image.
      baseline: of integrated gradients and occlusion, normalised.
      segment: of integrated gradients: the integrated segment of the path.
    """
    kind = settings.kind
    if method == "integrated_gradients":
        return maps.integrated_gradients(
            network, images, targets, baseline, kind, settings.steps, settings.power, segment
        )
    if method == "occlusion":
        return maps.occlusion(
            network, images, targets, baseline, kind, settings.window, settings.stride
        )
    if method == "rollout":
        return maps.rollout(network.intermediates(images)["attention"], **_tokens(network, images))
    if method == "attention":
        return maps.gradient_weighted_attention(
            *attention_gradients(network, images, targets, kind), **_tokens(network, images)
        )
    activation_map = {
        "gradcam": maps.grad_cam,
        "gradcam++": maps.grad_cam_plus_plus,
        "hirescam": maps.hires_cam,
    }[method]
    result = activation_map(*layer_gradient(network, images, targets, settings.layer, kind))
    return jnp.asarray(result, jnp.float32)


def _tokens(network: Network, images: Float[Array, "n h w 3"]) -> dict[str, Any]:
    """The arguments of `maps.rollout` that depend on the network."""
    shapes = jax.eval_shape(network.intermediates, images)
    pool = getattr(network.module, "pool", "class")
    if "patch_tokens" not in shapes:
        return {"pool": pool}
    return {"pool": pool, "patches": math.prod(shapes["patch_tokens"][0].shape[1:3])}
