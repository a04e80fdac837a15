"""The convolution: patches on CPU, native elsewhere, the same numbers and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.models.layers import (
    Conv,
    StandardizedConv,
    StochasticDepth,
    conv,
    dot_general,
    resolve_padding,
    stochastic_depth_rates,
)

HALF = ((1, 1), (1, 1))


def _random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _native(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _with_gradients(function, x, kernel):
    def all_three(x, kernel):
        out, pull = jax.vjp(function, x, kernel)
        return (out, *pull(jnp.asarray(_random(9, *out.shape))))

    return jax.jit(all_three)(x, kernel)


def _assert_close(ours, theirs):
    for value, theirs_ in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(value, theirs_, atol=1e-5 * np.abs(theirs_).max())


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding"),
    [
        ((12, 12), (3, 3), (1, 1), HALF),
        ((12, 12), (3, 3), (2, 2), HALF),
        ((13, 11), (3, 3), (2, 2), HALF),  # the last row and column are in no window's centre
        ((12, 12), (1, 1), (1, 1), ((0, 0), (0, 0))),
        ((11, 12), (1, 1), (2, 2), ((0, 0), (0, 0))),
        ((24, 24), (7, 7), (2, 2), ((3, 3), (3, 3))),
        ((2, 2), (3, 3), (1, 1), HALF),
        ((12, 13), (3, 3), (2, 2), "SAME"),
        ((9, 9), (4, 3), (2, 3), "VALID"),
    ],
)
def test_values_and_both_gradients_equal_the_native_convolution(size, window, strides, padding):
    x, kernel = _random(0, 3, *size, 5), _random(1, *window, 5, 7)
    ours = _with_gradients(lambda x, k: conv(x, k, strides, padding), x, kernel)
    theirs = _with_gradients(lambda x, k: _native(x, k, strides, padding), x, kernel)
    _assert_close(ours, theirs)


@settings(max_examples=6, deadline=None)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_any_window_stride_and_padding(size, window, strides, data):
    # Less padding than window: above that, XLA:CPU's own input gradient is wrong (jax 0.10.2).
    pads = tuple(
        (data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1)))
        for side in window
    )
    x, kernel = _random(0, 2, *size, 2), _random(1, *window, 2, 3)
    ours = _with_gradients(lambda x, k: conv(x, k, strides, pads), x, kernel)
    theirs = _with_gradients(lambda x, k: _native(x, k, strides, pads), x, kernel)
    _assert_close(ours, theirs)


def test_more_padding_than_window():
    x, kernel = _random(0, 1, 4, 4, 2), _random(1, 2, 2, 2, 3)
    pads = ((1, 1), (3, 0))
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    out, pull = jax.vjp(lambda x, k: conv(x, k, (1, 1), pads), x, kernel)
    np.testing.assert_allclose(out, _native(padded, kernel, (1, 1), "VALID"), atol=1e-5)
    # Linear in x: <gradient, conv(x)> = <by_x, x>.
    gradient = _random(2, *out.shape)
    by_x = pull(jnp.asarray(gradient))[0]
    assert jnp.vdot(gradient, out) == pytest.approx(float(jnp.vdot(by_x, x)), rel=1e-4)


def test_half_is_the_padding_of_pytorch_and_differs_from_same():
    assert resolve_padding("HALF", (12, 12), (3, 3), (2, 2)) == HALF
    assert resolve_padding("SAME", (12, 12), (3, 3), (2, 2)) == ((0, 1), (0, 1))


def test_the_platform_is_chosen_when_lowering():
    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, (2, 2), "HALF") ** 2)

    step = jax.jit(jax.grad(loss, (0, 1)))
    arguments = _random(0, 2, 8, 8, 4), _random(1, 3, 3, 4, 4)
    assert "stablehlo.convolution" not in step.lower(*arguments).as_text()
    # One branch, without a choice at run time.
    assert "conditional" not in step.lower(*arguments).compile().as_text()
    for platform in ("cuda", "tpu"):
        module = jax.export.export(step, platforms=[platform])(*arguments).mlir_module()
        assert module.count("stablehlo.convolution") == 3  # forward and two gradients
        assert "stablehlo.concatenate" not in module


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 32), (32, 4)])
def test_no_product_of_a_pointwise_convolution_on_cpu_sums_over_leading_axes(inputs, outputs):
    # Those take up to 1.7 times as long; a newer XLA may see through the barriers.
    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, (1, 1), "HALF") ** 2)

    arguments = _random(0, 4, 8, 8, inputs), _random(1, 1, 1, inputs, outputs)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile().as_text()
    assert text.count(" dot(") == 3
    assert "lhs_contracting_dims={0}" not in text


@pytest.mark.parametrize(
    ("window", "strides"), [((1, 1), (1, 1)), ((3, 3), (1, 1)), ((7, 7), (2, 2))]
)
def test_bfloat16_is_the_truth_rounded_once(window, strides):
    pads = resolve_padding("HALF", (12, 12), window, strides)
    x, kernel = _random(0, 4, 12, 12, 8), _random(1, *window, 8, 16)
    gradient = _random(2, 4, 12 // strides[0], 12 // strides[1], 16)
    narrow = [jnp.asarray(value, jnp.bfloat16) for value in (x, kernel, gradient)]
    wide = [value.astype(jnp.float32) for value in narrow]

    def all_three(convolve, x, kernel, gradient):
        out, pull = jax.vjp(lambda x, k: convolve(x, k, strides, pads), x, kernel)
        return (out, *pull(gradient))

    ours = jax.jit(functools.partial(all_three, conv))(*narrow)
    truth = jax.jit(functools.partial(all_three, _native))(*wide)
    for value, expected in zip(ours, truth, strict=True):
        assert value.dtype == jnp.bfloat16
        # Eight binary digits: half of the last is 2^-8 of the number or less.
        np.testing.assert_allclose(
            np.float32(value), expected, rtol=2.0**-8, atol=1e-5 * np.abs(expected).max()
        )


def test_on_cpu_products_of_bfloat16_are_float32():
    # XLA:CPU has fast ones for that result only.
    def loss(x, kernel, matrix):
        y = conv(x, kernel, (1, 1), "HALF")
        return jnp.sum(dot_general(y, matrix, (((3,), (0,)), ((), ()))).astype(jnp.float32) ** 2)

    random_values = _random(0, 2, 8, 8, 4), _random(1, 3, 3, 4, 8), _random(2, 8, 5)
    arguments = [jnp.asarray(value, jnp.bfloat16) for value in random_values]
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 6
    for line in products:
        *operands, result = re.findall(r"tensor<[\dx]*x(\w+)>", line)
        assert (operands, result) == (["bf16", "bf16"], "f32")


def test_transposes_around_a_product_of_bfloat16():
    # XLA:CPU fails where it lets such a product lie by columns, as a bare one before a transpose.
    x = jnp.asarray(_random(0, 6, 5, 4, 8), jnp.bfloat16)
    kernel = jnp.asarray(_random(1, 1, 1, 6, 16), jnp.bfloat16)
    matrix = jnp.asarray(_random(2, 5, 16), jnp.bfloat16)

    def turned(x, kernel):
        y = conv(x.transpose(3, 1, 2, 0), kernel, (1, 1), "HALF").transpose(0, 2, 1, 3)
        return dot_general(y, matrix.T, (((3,), (0,)), ((), ()))).T

    def plain(x, kernel):
        y = jnp.einsum("chwn,co->nwho", x, kernel[0, 0])
        return jnp.einsum("nwho,fo->fhwn", y, matrix.astype(jnp.float32))

    ours = _with_gradients(
        lambda *random_values: turned(*random_values).astype(jnp.float32), x, kernel
    )
    truth = _with_gradients(plain, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for value, expected in zip(ours, truth, strict=True):
        # Rounded twice, to eight binary digits.
        np.testing.assert_allclose(np.float32(value), expected, atol=np.abs(expected).max() / 64)


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12)])
@pytest.mark.parametrize("features", [(4,), (3, 2, 4)])
def test_the_product_of_a_dense_layer_equals_the_plain_one(shape, features):
    x, kernel = _random(0, *shape), _random(1, 12, *features)
    numbers = (((len(shape) - 1,), (0,)), ((), ()))
    ours = _with_gradients(lambda x, k: dot_general(x, k, numbers), x, kernel)
    theirs = _with_gradients(lambda x, k: lax.dot_general(x, k, numbers), x, kernel)
    _assert_close(ours, theirs)


def test_a_dense_layer_on_other_platforms_is_the_plain_product():
    def function(x, kernel):
        return dot_general(x, kernel, (((2,), (0,)), ((), ())))

    arguments = _random(0, 2, 5, 8), _random(1, 8, 4)
    for platform in ("cuda", "tpu"):
        text = jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()
        (line,) = (line for line in text.splitlines() if "stablehlo.dot_general" in line)
        assert "tensor<2x5x8xf32>, tensor<8x4xf32>" in line


def test_exported_for_cpu_and_cuda_together_it_still_runs_here():
    def function(x, kernel):
        return conv(x, kernel, (1, 1), "HALF")

    x, kernel = _random(0, 2, 6, 6, 3), _random(1, 3, 3, 3, 4)
    exported = jax.export.export(jax.jit(function), platforms=["cpu", "cuda"])(x, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), function(x, kernel), atol=1e-5)


def test_vmap_adds_an_axis():
    xs, kernel = _random(0, 3, 2, 6, 6, 3), _random(1, 3, 3, 3, 4)
    function = functools.partial(conv, strides=(2, 2), padding="HALF")

    def loss(kernel):
        return jnp.sum(jax.vmap(function, (0, None))(xs, kernel) ** 2)

    def one_by_one(kernel):
        return sum(jnp.sum(function(x, kernel) ** 2) for x in xs)

    _assert_close([jax.grad(loss)(kernel)], [jax.grad(one_by_one)(kernel)])


def test_sharded_over_eight_devices_it_is_the_same():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    x, kernel = _random(0, 16, 8, 8, 3), _random(1, 3, 3, 3, 4)

    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, (2, 2), "HALF") ** 2)

    gradient = jax.grad(loss, (0, 1))
    sharded = jax.jit(gradient, in_shardings=(rows, whole))
    _assert_close(sharded(x, kernel), jax.jit(gradient)(x, kernel))
    assert "all-gather" not in sharded.lower(x, kernel).compile().as_text()


def test_module_keeps_float32_parameters_and_computes_in_its_dtype():
    module = Conv(4, (3, 3), dtype=jnp.bfloat16)
    out, variables = module.init_with_output(jax.random.key(0), _random(0, 2, 6, 6, 3))
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert out.dtype == jnp.bfloat16


def test_standardized_weights_have_no_mean_and_unit_variance():
    module = StandardizedConv(4, (3, 3))
    kernel = 5 + 3 * _random(0, 3, 3, 6, 4)
    weights = module.weights(kernel)
    np.testing.assert_allclose(jnp.mean(weights, (0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.var(weights, (0, 1, 2)), 1, atol=1e-4)
    x = _random(1, 2, 6, 6, 6)
    ours = module.apply({"params": {"kernel": kernel}}, x)
    scaled = module.apply({"params": {"kernel": 7 * kernel - 2}}, x)
    np.testing.assert_allclose(ours, scaled, atol=1e-3)


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    layer = StochasticDepth(0.25)
    out = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    by_image = np.asarray(out).reshape(4000, -1)
    assert (by_image == by_image[:, :1]).all()
    assert (by_image[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert by_image.mean() == pytest.approx(1, abs=0.04)
    assert (layer.apply({}, x, train=False) == x).all()


def test_stochastic_depth_grows_from_none_to_its_rate():
    assert stochastic_depth_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert stochastic_depth_rates(0.2, 1) == [0]
