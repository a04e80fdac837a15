"""The methods by name: which networks each fits, and one call for all."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leukjax.errors import UserError
from leukjax.explain.attribution import attention, cam
from leukjax.explain.attribution.integrated_gradients import integrated_gradients
from leukjax.explain.attribution.network import FEATURE_MAP, Form, Kind, Network, tapped
from leukjax.explain.attribution.occlusion import occlusion


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
      title: for readers.
      fits: the form of networks that it is for (`network.form_of`), or ``all``.
      signed: maps also have values below 0, for what speaks against the class.
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
    """What the methods take; hashable, for jit.

    Attributes:
      layer: of class activation maps.
      kind: as in `network.score`.
      steps, power: of integrated gradients.
      window, stride: of occlusion, pixels.
    """

    layer: str = FEATURE_MAP
    kind: Kind = "log_odds"
    steps: int = 64
    power: int = 1
    window: int = 8
    stride: int = 4


def fits(method: str, form: Form) -> bool:
    """Returns whether a method is for networks of a form."""
    return METHODS[method].fits in ("all", form)


def usual(form: Form) -> tuple[str, ...]:
    """Returns the default methods: one that is fast and coarse, one that is exact and noisy."""
    coarse = {"transformer": "attention", "convolutional": "gradcam", "other": "occlusion"}[form]
    return coarse, "integrated_gradients"


def check(methods: Sequence[str], models: Sequence[tuple[str, Form]]) -> None:
    """Checks that each method fits one of the models, and each model one of the methods.

    Args:
      methods: names.
      models: name and form of each model.

    Raises:
      UserError: it does not, or a name is unknown or given twice.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--method={name}: no such method; one of {', '.join(METHODS)}")
        if methods.count(name) > 1:
            raise UserError(f"--method={name}: is given twice; give it once")
        if not any(fits(name, form) for _, form in models):
            raise UserError(f"--method={name}: {_refusal(*models[0])}")
    for model, form in models:
        if not any(fits(name, form) for name in methods):
            raise UserError(
                f"--method={','.join(methods)}: {_refusal(model, form)}; add one for it"
            )


def _refusal(model: str, form: Form) -> str:
    fitting = ", ".join(name for name in METHODS if fits(name, form))
    return f"is not for {model}, which has {fitting}"


def attribute(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    method: str,
    settings: Settings,
    baseline: Float[Array, "#n #h #w 3"],
    part: tuple[Float[Array, ""] | float, Float[Array, ""] | float] = (0.0, 1.0),
) -> Float[Array, "n p q"]:
    """Maps of one method; `network` must be one that the method fits.

    Args:
      images: normalised.
      targets: the class that each is explained for.
      baseline: of integrated gradients and occlusion, normalised.
      part: of integrated gradients: the stretch of the way.
    """
    if method == "integrated_gradients":
        return integrated_gradients(
            network, images, targets, baseline, settings.kind, settings.steps, settings.power, part
        )
    if method == "occlusion":
        return occlusion(
            network, images, targets, baseline, settings.kind, settings.window, settings.stride
        )
    if method == "rollout":
        return attention.rollout(attention.attended(network, images))
    if method == "attention":
        weights, gradients = attention.attended_with_gradients(
            network, images, targets, settings.kind
        )
        return attention.gradient_weighted(weights, gradients)
    activation_map = {
        "gradcam": cam.grad_cam,
        "gradcam++": cam.grad_cam_plus_plus,
        "hirescam": cam.hires_cam,
    }[method]
    maps: Array = activation_map(*tapped(network, images, targets, settings.layer, settings.kind))
    return jnp.asarray(maps, jnp.float32)
