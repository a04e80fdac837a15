"""The table of layers, parameters and FLOPs."""

import jax
import jax.numpy as jnp
import pytest

from leukjax.models import summary
from leukjax.models.cpu import convolution
from leukjax.models.registry import create_model


def test_resnet50_has_its_published_size():
    table = summary.table(create_model("resnet", 1000, depth=50), 224)
    assert table.parameters == 25_557_032
    assert table.flops == pytest.approx(8.18e9, rel=1e-3)  # 4.09 G multiply-adds
    first = table.rows[0]
    assert first == summary.Row("conv1", (112, 112, 64), 9408, 2 * 9408 * 112 * 112)


@pytest.mark.parametrize(
    ("name", "options"),
    [("cnn", {"width": 8}), ("resnet", {"depth": 18}), ("hybrid_vit", {"variant": "small"})],
)
def test_every_parameter_is_in_the_table_and_flops_are_the_compilers(name, options, monkeypatch):
    # Winograd's convolutions multiply less; the table counts as usual.
    monkeypatch.setattr(convolution, "_by_tiles", lambda *_: False)
    module = create_model(name, 3, **options)
    table = summary.table(module, 64)
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    assert table.parameters == sum(x.size for x in jax.tree.leaves(variables["params"]))

    lowered = jax.jit(lambda v, x: module.apply(v, x, train=False)).lower(variables, images)
    counted = lowered.compile().cost_analysis()["flops"]
    # XLA counts normalisation, activation and pooling too, and multiplications by padding.
    assert 0.98 * table.flops < counted < 1.35 * table.flops


def test_the_text_has_a_line_a_block_and_the_totals():
    table = summary.table(create_model("resnet", 2, depth=18, width=8), 32)
    lines = table.text().splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "MFLOPs"]
    assert [line.split()[0] for line in lines[1:]] == [
        "conv1",
        "norm1",
        *[f"layer{stage}_{block}" for stage in (1, 2, 3, 4) for block in (0, 1)],
        "fc",
        "total",
    ]
    assert f"{table.parameters:,}" in lines[-1]
    assert len({len(line) for line in lines}) == 1
