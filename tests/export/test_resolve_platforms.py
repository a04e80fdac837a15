"""Choices between platforms are made while tracing, and nothing else of a model changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from leukjax.export.resolve_platforms import resolved
from leukjax.models.registry import create_model

SMALL = {
    "cnn": {"width": 8},
    "resnet": {"depth": 18, "width": 8},
    "hybrid_vit": {},
    "bit": {"width": 8},
}


def primitives(jaxpr: core.Jaxpr) -> set[str]:
    """Names of all primitives of a jaxpr and of its inner ones."""
    found = {equation.primitive.name for equation in jaxpr.eqns}
    for inner in core.subjaxprs(jaxpr):
        found |= primitives(inner)
    return found


_SLOW = ("bit", "vit")


@pytest.mark.parametrize(
    "family",
    [
        *(name for name in SMALL if name not in _SLOW),
        *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW),
    ],
)
def test_the_same_logits_without_a_choice(family: str):
    module = create_model(family, 3, **SMALL.get(family, {}))
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()
    # No head of zeros, no norm at its start.
    draw = np.random.default_rng(2)
    variables = jax.tree.map(lambda a: a + 0.03 * draw.normal(size=a.shape), variables)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)

    def logits(images: jax.Array) -> jax.Array:
        return module.apply(variables, images, train=False)

    before = primitives(jax.make_jaxpr(logits)(images).jaxpr)
    assert {"platform_index", "cond"} <= before
    after = jax.make_jaxpr(resolved(logits))(images).jaxpr
    gone = {"platform_index", "cond", "reduce_window_max", "optimization_barrier", "jit"}
    assert not primitives(after) & (gone | {"custom_vjp_call", "custom_jvp_call"})
    product = "dot_general" if family == "vit" else "conv_general_dilated"
    assert product in primitives(after)
    expected = jax.jit(logits)(images)
    assert np.ptp(np.asarray(expected), axis=0).max() > 1e-3
    np.testing.assert_allclose(jax.jit(resolved(logits))(images), expected, rtol=1e-4, atol=1e-4)


def test_branches_that_do_not_depend_on_the_platform_stay():
    def function(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)

    for x in (np.array([1.0, 2.0]), np.array([-1.0, -2.0])):
        np.testing.assert_allclose(resolved(function)(x), function(x), rtol=1e-6)
