"""The methods by name: which networks each fits, and one call for all."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leukjax.errors import UserError
from leukjax.explain.attribution import attention, cam
from leukjax.explain.attribution.integrated_gradients import integrated_gradients
from leukjax.explain.attribution.network import FEATURE_MAP, Kind, Network, tapped
from leukjax.explain.attribution.occlusion import occlusion


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
      title: for people.
      fits: ``convolutional`` (not the hybrid, whose tokens mix behind the map), ``transformer`` or
        ``all``.
      signed: maps hold what speaks against the class, too, below 0.
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
TRANSFORMERS = ("hybrid_vit",)


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


def fits(method: str, family: str) -> bool:
    """Whether a method is for models of a family (a key of `models.FAMILIES`)."""
    wanted = METHODS[method].fits
    return wanted == "all" or (wanted == "transformer") == (family in TRANSFORMERS)


def usual(family: str) -> tuple[str, ...]:
    """The methods for who names none: one that is cheap and coarse, one that is exact and noisy."""
    return "attention" if family in TRANSFORMERS else "gradcam", "integrated_gradients"


def check(methods: Sequence[str], families: Sequence[str]) -> None:
    """Refuse methods that fit none of the models, and models that no method fits.

    Raises:
      UserError: so, or an unknown name, or one that is given twice.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--method={name}: no such method; one of {', '.join(METHODS)}")
        if methods.count(name) > 1:
            raise UserError(f"--method={name}: is given twice; give it once")
        if not any(fits(name, family) for family in families):
            raise UserError(f"--method={name}: {_refusal(name, families[0])}")
    for family in families:
        if not any(fits(name, family) for name in methods):
            raise UserError(
                f"--method={','.join(methods)}: {_refusal(methods[0], family)}; add one for it"
            )


def _refusal(name: str, family: str) -> str:
    own = ", ".join(each for each in METHODS if fits(each, family))
    return f"is not for {family}, which has {own}"


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
