"""Every tensor is loaded, resized, adapted, new or unused, once; else it is an error."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from fabricated import load, map_to, only_shapes, write
from safetensors.numpy import load_file, save_file

from leukjax.errors import UserError
from leukjax.models.registry import create_model
from leukjax.weights import layouts, names
from leukjax.weights.axes import FLAX
from leukjax.weights.map import adapt_input, match
from leukjax.weights.read import open_file

OURS = {
    ("params", "conv1", "kernel"): (3, 3, 3, 4),
    ("params", "norm1", "scale"): (4,),
    ("batch_stats", "norm1", "var"): (4,),
    ("params", "fc", "kernel"): (4, 2),
    ("params", "fc", "bias"): (2,),
}


def theirs(**changes):
    """Our names and shapes as a file, some of them changed; None = absent."""
    shapes = {"/".join(path): shape for path, shape in OURS.items()}
    for name, shape in changes.items():
        key = name.replace("__", "/")
        shapes.pop(key, None)
        if shape is not None:
            shapes[key] = shape
    return only_shapes(shapes)


def mapped(tensors, **options):
    return match(OURS, tensors, names.own, FLAX, **{"new_head": False, "allow": "", **options})


def row_of(result, variable):
    (row,) = (row for row in result.rows if row.variable == variable)
    return row


def test_the_table_lists_everything():
    result = mapped(theirs(extra=(7,)), allow="^extra$")
    rows = list(csv.DictReader(io.StringIO(result.csv())))
    assert len(rows) == len(OURS) + 1
    assert rows[0] == {
        "variable": "params/conv1/kernel",
        "tensor": "params/conv1/kernel",
        "shape": "3x3x3x4",
        "tensor_shape": "3x3x3x4",
        "status": "loaded",
        "note": "",
    }
    assert rows[-1]["status"] == "unused"
    assert result.counts() == {"loaded": 5, "unused": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": (7,)}, r"extra \(7\) belongs to no variable of the model; change"),
        (
            {"params__norm1__scale": None},
            r"params/norm1/scale is missing \(for params/norm1/scale\)",
        ),
        ({"params__norm1__scale": (5,)}, "params/norm1/scale is 5 and params/norm1/scale is 4"),
        ({"params__conv1__kernel": (3, 3, 2, 4)}, "kernel is 3 x 3 x 2 x 4 and .* is 3 x 3 x 3"),
    ],
)
def test_what_does_not_fit_is_an_error_unless_allowed(changes, message):
    with pytest.raises(UserError, match=message) as error:
        mapped(theirs(**changes))
    assert "\n" not in str(error.value)
    allowed = mapped(theirs(**changes), allow="extra|norm1/scale|conv1")
    assert {"new", "unused"} & set(allowed.counts())


def test_the_head_is_replaced_whole_for_other_classes():
    result = mapped(theirs(params__fc__kernel=(4, 10), params__fc__bias=(10,)))
    for name in ("params/fc/kernel", "params/fc/bias"):
        assert row_of(result, name).status == "new"
    assert not {path for path in result.values if path[1] == "fc"}
    # Never one half of it.
    half = mapped(theirs(params__fc__kernel=(4, 10)))
    assert row_of(half, "params/fc/bias").status == "new"
    assert mapped(theirs(), new_head=True).counts() == {"loaded": 3, "new": 2}


def test_pre_logits_go_with_the_head_and_never_alone():
    tensors = theirs(pre_logits__kernel=(4, 4))
    assert row_of(mapped(tensors, new_head=True), "").note == "goes with the head"
    with pytest.raises(UserError, match=r"pre_logits/kernel .* belongs to no variable"):
        mapped(tensors)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_input_convolution_is_adapted(channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, channels, 4)).astype(np.float32)
    tensors = theirs(params__conv1__kernel=kernel.shape)
    zeros = tensors.get
    tensors = dataclasses.replace(
        tensors, get=lambda name: kernel if "conv1" in name else zeros(name)
    )
    result = mapped(tensors)
    value = result.values["params", "conv1", "kernel"]
    assert row_of(result, "params/conv1/kernel").status == "adapted"
    if channels == 1:  # a grey image gives what it gave
        np.testing.assert_allclose(value.sum(2), kernel[:, :, 0], rtol=1e-6)
    else:
        np.testing.assert_array_equal(value, kernel[:, :, :3])
    np.testing.assert_array_equal(adapt_input(kernel, 3), value)


def test_position_embeddings_are_resized(tmp_path):
    path = write("hybrid_npz", tmp_path)  # for 32 px: 4 x 4 places
    module, same = load(path, 10, 32)
    tensors = open_file(path)
    resized = map_to(module, 48, tensors, layouts.recognize("x", tensors.shapes))
    row = row_of(resized, "params/pos_embed")
    assert (row.status, row.tensor_shape, row.shape) == ("resized", (1, 17, 192), (1, 37, 192))
    old, new = (result.values["params", "pos_embed"] for result in (same, resized))
    np.testing.assert_array_equal(old[:, 0], new[:, 0])  # the class token's
    assert new.shape == (1, 37, 192)


def test_numbers_that_no_model_can_hold_are_refused(tmp_path):
    path = write("timm_resnet18", tmp_path)
    good = load_file(path)
    module = create_model("resnet", 10, depth=18)
    for name, value, message in (
        ("layer1.0.bn1.running_var", -1.0, "running_var has a variance below 0"),
        ("conv1.weight", np.nan, "conv1.weight holds numbers that are not finite"),
    ):
        bad = {**good, name: good[name].copy()}
        bad[name].flat[0] = value
        save_file(bad, path)
        tensors = open_file(path)
        with pytest.raises(UserError, match=message):
            map_to(module, 32, tensors, layouts.recognize("x", tensors.shapes))
