"""The attribution methods by name: which networks each supports, and one function for all."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

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
      fits: the form of networks that it supports (`network.form_of`), or ``all``.
      signed: maps have negative values too, for evidence against the class.
      pixels: maps have the size of the image; others that of a layer.
    """

    title: str
    fits: Literal["convolutional", "transformer", "all"]
    signed: bool = False
    pixels: bool = False


METHODS = {
    "gradcam": Method("Grad-CAM", "convolutional"),
    "gradcam++": Method("Grad-CAM++", "convolutional"),
    "hirescam": Method("HiResCAM", "convolutional"),
    "rollout": Method("Attention rollout", "transformer"),
    "attention": Method("Gradient-weighted attention", "transformer"),
    "integrated_gradients": Method("Integrated gradients", "all", signed=True, pixels=True),
    "occlusion": Method("Occlusion", "all", signed=True, pixels=True),
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
    return METHODS[method].fits in ("all", form)


def defaults(form: Form) -> tuple[str, ...]:
    """Returns the default methods: one that is fast and coarse, one that is exact and noisy."""
    coarse = {"transformer": "attention", "convolutional": "gradcam", "other": "occlusion"}[form]
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
        return maps.rollout(network.intermediates(images)["attention"])
    if method == "attention":
        return maps.gradient_weighted_attention(
            *attention_gradients(network, images, targets, kind)
        )
    activation_map = {
        "gradcam": maps.grad_cam,
        "gradcam++": maps.grad_cam_plus_plus,
        "hirescam": maps.hires_cam,
    }[method]
    result = activation_map(*layer_gradient(network, images, targets, settings.layer, kind))
    return jnp.asarray(result, jnp.float32)
