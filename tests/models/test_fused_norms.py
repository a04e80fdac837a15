"""A normalisation fused with what follows it equals the separate layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.models import fused
from leukjax.models.fused.norms import LAYERS
from leukjax.models.norms import After, Layers
from leukjax.models.registry import create_model

NORMS = {
    "batch": lambda layers: layers.batch(),
    "sub_batches": lambda layers: layers.batch(sub_batch=2),
    "group": lambda layers: layers.group(),
}
POOLS = {
    "same": ((3, 3), (2, 2), "SAME"),
    "half": ((3, 3), (2, 2), "HALF"),
    "valid": ((2, 2), (2, 2), "VALID"),
    "odd": ((2, 3), (1, 2), ((1, 0), (2, 1))),
}
SHAPE = (4, 9, 8, 6)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def results(norm, x, after, is_fused):
    """Returns the result, gradients of parameters, features and shortcut, and running averages."""
    channels, module = x.shape[-1], NORMS[norm](LAYERS if is_fused else Layers())
    params = {"scale": normal(5, channels), "bias": normal(6, channels)}
    rest = {"batch_stats": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}}

    def call(params, x, shortcut):
        follows = after._replace(shortcut=shortcut)._asdict()
        return module.apply(
            {"params": params, **rest}, x, train=True, mutable=["batch_stats"], **follows
        )

    @jax.jit
    def run(*arguments):
        y, pull, averages = jax.vjp(call, *arguments, has_aux=True)
        return y, pull(normal(3, *y.shape, dtype=y.dtype)), averages

    return jax.tree.leaves(run(params, x, after.shortcut))


def assert_close(ours, theirs, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * (1 + float(abs(other).max())))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("follows", ["nothing", "relu", "shortcut", *POOLS])
def test_fused_equals_layer_by_layer(norm, follows):
    after = {
        "nothing": After(),
        "relu": After(relu=True),
        "shortcut": After(shortcut=normal(2, *SHAPE), relu=True),
    }.get(follows, After(relu=True, pool=POOLS.get(follows)))
    x = normal(1, *SHAPE) * 2 + 0.5
    ours, theirs = (results(norm, x, after, is_fused) for is_fused in (True, False))
    assert_close(ours, theirs)


@pytest.mark.parametrize("follows", ["relu", "shortcut", "same"])
def test_bfloat16_is_as_accurate_as_layer_by_layer(follows):
    """Root mean square errors against float32 of the same features."""
    after = {
        "relu": After(relu=True),
        "shortcut": After(shortcut=normal(2, *SHAPE), relu=True),
        "same": After(relu=True, pool=POOLS["same"]),
    }[follows]
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (normal(1, *SHAPE), after.shortcut))
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), narrow)
    truth = results("group", wide[0], after._replace(shortcut=wide[1]), False)
    errors = []
    for is_fused in (True, False):
        values = results("group", narrow[0], after._replace(shortcut=narrow[1]), is_fused)
        errors.append(
            np.asarray([jnp.mean((a - b) ** 2) ** 0.5 for a, b in zip(values, truth, strict=True)])
        )
    assert np.all(errors[0] < 1.2 * errors[1] + 0.02)


def test_of_equal_maxima_the_first_gets_the_gradient():
    x = jnp.round(normal(1, *SHAPE) * 2)  # many are equal
    after = After(relu=True, pool=POOLS["same"])
    ours, theirs = (results("group", x, after, is_fused) for is_fused in (True, False))
    assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["batch", "sub_batches", "group"])
def test_any_number_of_devices_gives_the_same(norm):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = normal(1, 16, 6, 6, 8)
    for after in (After(relu=True), After(relu=True, pool=POOLS["same"])):
        alone = results(norm, x, after, True)
        spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        assert_close(results(norm, spread, after, True), alone)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {"width": 4}),
        slow("resnet", {"depth": 50, "width": 4}),
        slow("resnet", {"depth": 18, "width": 4, "norm": "frozen", "stochastic_depth": 0.2}),
    ],
)
def test_a_fused_model_trains_like_the_model(name, options):
    images = normal(1, 4, 32, 32, 3)
    module = create_model(name, 2, **options)
    forms = [fused.fuse(module, "gpu"), module]
    assert type(forms[0]) is not type(module)
    variables = jax.jit(lambda: forms[0].init(jax.random.key(0), images, train=False))()

    def gradients(module):
        def loss(params):
            given = {**variables, "params": params}
            keys = {"dropout": jax.random.key(1)}
            y, _ = module.apply(given, images, train=True, rngs=keys, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y)), y

        return jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))

    assert_close(*map(gradients, forms), tolerance=2e-4)
