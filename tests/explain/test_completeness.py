"""Incomplete integrated gradients: more steps where they help, and a warning elsewhere."""

import io
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from leukjax.explain import explainer
from leukjax.explain.maps import TOLERANCE, incompleteness
from leukjax.explain.methods import Settings
from leukjax.explain.overlay import Column, Panel, as_png, overlay
from leukjax.images.normalize import Normalization

SIDE = 6


class Step(nn.Module):
    """Log-odds that rise by 4 when the mean of the image passes a point of the path."""

    steepness: float
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        excess = images.mean(axis=(1, 2, 3)) - 0.31
        return jnp.stack([jnp.zeros(len(images)), 2 * jnp.tanh(self.steepness * excess)], axis=1)


def explain(steepness: float, steps: int = 64, count: int = 3) -> explainer.Explanations:
    model = types.SimpleNamespace(
        batch_size=2,
        padded=lambda rows: np.resize(rows, (2, *rows.shape[1:])),
        module=Step(steepness),
        variables={},
        normalization=Normalization(jnp.zeros(3), jnp.ones(3)),
        on_devices=lambda *arrays: ({}, *arrays),
    )
    images = np.full((count, SIDE, SIDE, 3), 255, np.uint8)
    images[1:] = 51  # never reach the step: the network hardly changes
    targets = np.ones(count, np.int32)
    return explainer.explain(model, images, targets, "integrated_gradients", Settings(steps=steps))


def test_few_steps_are_enough_where_the_score_is_smooth():
    result = explain(2.0)
    assert result.steps.tolist() == [64] * 3
    assert not result.incomplete.any()


def test_steps_are_doubled_until_the_map_sums_up():
    result = explain(300.0)
    assert 64 < result.steps[0] <= explainer.MOST_STEPS
    assert result.steps[1] == 64  # the others keep what they have
    change = result.scores - result.baseline_scores
    assert change[0] == pytest.approx(4, abs=1e-3)
    assert abs(result.maps[0].sum() - change[0]) < TOLERANCE * change[0]
    assert not result.incomplete.any()
    # As many steps at once give nearly the same; a few give something else.
    many = explain(300.0, steps=1024)
    np.testing.assert_allclose(result.maps[0], many.maps[0], rtol=2 * TOLERANCE)


def test_what_no_number_of_steps_resolves_is_said():
    result = explain(1e7)
    assert result.incomplete.tolist() == [True, False, False]
    assert result.incompleteness[0] > TOLERANCE


def test_other_methods_are_never_incomplete():
    result = explain(2.0)
    other = result._replace(steps=np.zeros(3, int), incompleteness=np.full(3, np.nan))
    assert not other.incomplete.any()
    assert result._replace(incompleteness=np.full(3, np.nan)).incomplete.all()


def test_incompleteness_by_hand():
    result = incompleteness(
        np.array([1.0, 35.0, 0.0]), np.array([1.5, 1, 2]), np.array([0.5, 0, 2])
    )
    np.testing.assert_allclose(result, [0, 34, 0])


@pytest.mark.parametrize("models", [1, 2])
def test_the_warning_is_not_cut(models):
    image, cell = np.full((24, 24, 3), 99, np.uint8), np.zeros((24, 24), bool)
    cell[6:18, 6:18] = True
    map = np.eye(24, dtype=np.float32)
    panel = Panel(map, True, "61% in the cell", "INCOMPLETE: off by 34.2,\n1250% of the change")
    column = Column("cnn: all 98%\nexplained: all", image, cell, [panel, panel])
    marks = ["trained on SYNTHETIC data", "INCOMPLETE integrated gradients: not an explanation"]
    figure = overlay("a.png", marks, ["Grad-CAM", "Integrated gradients"], [column] * models)
    with Image.open(io.BytesIO(as_png(figure))) as picture:
        pixels = np.asarray(picture.convert("L"))
    frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (frame == 255).all()
    assert (pixels < 128).any()
