"""Steps that benchmarks/compiled_row.py lowers, on this machine's CPU; nothing is compiled."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled_row
import contender_leukjax
import contenders
import plain_flax
from compiled_grid import OURS, PLAIN, Row

from leukjax import config as configs
from leukjax.compiler.targets import TARGETS, Target
from leukjax.errors import UserError
from leukjax.training import compiled

SMALL = (("data.image_size", 32), ("model.width", 4), ("model.variant", "small"))


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    """The CPU in place of a GPU."""
    monkeypatch.setattr(Target, "devices", lambda self, count: jax.devices()[:count])
    monkeypatch.setattr(compiled_row, "versions", lambda target: "none")


def lowered(config, lever="", contender=OURS, fields=SMALL):
    compiled._cached.cache_clear()  # each row is a process of its own
    request = Row("h100", 1, contender, config, 4, lever, fields).request(Path("p"), [])
    made = configs.load(request["config"], request["fields"])
    return compiled_row.LOWER[contender](made, TARGETS["h100"], request)


@pytest.mark.parametrize("lever", ["fused off", "10,000 images on the device"])
def test_a_lever_gives_another_program_with_the_same_parameters(lever):
    first = lowered("cnn")
    second = lowered("cnn", lever)
    assert first.as_text() != second.as_text()
    jax.clear_caches()  # as in a new process: the digest of a program must be the same in each
    assert first.as_text() == lowered("cnn").as_text()
    assert compiled_row.parameters(first) == compiled_row.parameters(second) > 1000


def test_plain_flax_has_as_many_parameters_as_ours():
    fields = (("data.image_size", 32),)
    ours, plain = (lowered("cnn", contender=name, fields=fields) for name in (OURS, PLAIN))
    assert compiled_row.parameters(ours) == compiled_row.parameters(plain)
    assert "tensor<4x32x32x3xf32>" in plain.as_text()  # its images are floats


@pytest.mark.parametrize("model", contenders.MODELS)
def test_the_models_of_the_contenders_have_as_many_parameters(model):
    spec = {"model": model, "image_size": 64, "batch": 8, "precision": "float32"}
    ours = contender_leukjax.make_trainer(spec).compiled().form.params
    init, _ = plain_flax.make_predict(model, "float32")
    plain = jax.eval_shape(init, jax.ShapeDtypeStruct((8, 64, 64, 3), "float32"))["params"]
    counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (ours, plain)]
    assert counts[0] == counts[1] > 1000


def test_a_model_that_plain_flax_lacks_is_an_error():
    with pytest.raises(UserError, match="plain Flax has no model like cnn"):
        lowered("cnn", contender=PLAIN, fields=(("model.name", "bit"), ("model.norm", "group")))


def test_a_program_that_is_known_is_not_compiled(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled_row.compiled, "compile_lowered", compile_it)
    request = Row("h100", 1, OURS, "cnn", 4, fields=SMALL).request(tmp_path, [])
    first = compiled_row.answer(request)["row"]
    assert first["megabytes_per_image"] == 0.0
    known = [[first["program"], first["versions"], first["reader"]]]
    assert compiled_row.answer(request | {"known": known}) == {"known": first["program"]}

    monkeypatch.setattr(compiled_row.compiled, "compile_lowered", None)  # read from the folder
    assert compiled_row.answer(request)["row"] == first
    monkeypatch.setattr(compiled_row.compiled, "compile_lowered", compile_it)
    flagged = compiled_row.answer(request | {"flags": {"xla_some": True}})["row"]
    assert flagged["program"] != first["program"]


HLO = """
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %b = f32[8]{0} negate(f32[8]{0} %a)
}
"""


def compile_it(lowered, flags):
    return compiled_row.compiled.Compiled(HLO, 1.0, 64, dict(flags))
