"""What is said of an image: ensembles, abstention, unlikeness, heat."""

import dataclasses

import jax
import numpy as np
import pytest
from form import cell

import leukjax
from leukjax.demo.options import Options
from leukjax.demo.predictors import appoint
from leukjax.demo.view_model import percent, shown
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import Predictor


@pytest.fixture(scope="module")
def judges(trained_run):
    return appoint([str(trained_run)], Options())


def test_of_an_ensemble_the_range_is_that_of_its_members(judges):
    (one,) = judges.members
    other = dataclasses.replace(one, variables=jax.tree.map(lambda x: 0.7 * x, one.variables))
    both = Predictor((one, other))
    two = dataclasses.replace(judges, predictor=both, heat=type(judges.heat)(both.members))
    (answer,) = two.answer([two.prepare(cell(1))])
    each = np.concatenate([Predictor((member,)).predict([cell(1)]) for member in both.members])
    np.testing.assert_allclose(answer.probabilities, each.mean(0), atol=1e-5)
    np.testing.assert_allclose(answer.low, each.min(0), atol=1e-5)
    np.testing.assert_allclose(answer.high, each.max(0), atol=1e-5)
    assert (answer.low < answer.high).all()


def test_with_tta_the_probability_is_that_of_predict(trained_run):
    judges = appoint([str(trained_run)], Options(tta=True))
    answers = judges.answer([judges.prepare(cell(number)) for number in (1, 2)])
    expected = leukjax.load(trained_run, tta=True).predict([cell(1), cell(2)])
    np.testing.assert_allclose([a.probabilities for a in answers], expected, atol=1e-5)
    for answer in answers:
        assert (answer.low <= answer.probabilities + 1e-6).all()
        assert (answer.probabilities <= answer.high + 1e-6).all()


@pytest.mark.parametrize(("least", "abstains"), [(0.5, False), (1.01, True)])
def test_it_abstains_below_the_confidence(judges, least, abstains):
    strict = dataclasses.replace(judges, threshold=Threshold(least, 0.5, 0.0, 5))
    image = strict.prepare(cell(1))
    (answer,) = strict.answer([image])
    row = shown("a.png", image, (), answer, strict)
    assert answer.abstained == abstains
    assert (row.predicted == "") == abstains
    assert bool(row.why_not) == abstains
    assert row.likeliest in strict.classes


def test_unlikeness_is_that_of_the_features(judges):
    (model,) = judges.members
    image = judges.prepare(cell(1))
    features = model.outputs(np.stack(image)).features
    like = FeatureDistance(model.step, np.zeros_like(features), np.eye(features.shape[1]), 2.0)
    (answer,) = dataclasses.replace(judges, likes=(like,)).answer([image])
    assert answer.unlikeness == pytest.approx(np.linalg.norm(features) / 2, rel=1e-4)


@pytest.mark.parametrize(("distance", "flagged"), [(3.5, True), (0.5, False), (None, None)])
def test_the_flag_of_an_unlike_image_comes_before_its_class(judges, page, distance, flagged):
    image = judges.prepare(cell(1))
    answer = dataclasses.replace(judges.answer([image])[0], unlikeness=distance)
    row = shown("a.png", image, (), answer, judges)
    html = page._part.render(images=[row], refused="")
    line = "Unlike the training images: do not rely on the class below."
    assert (line in html) == bool(flagged)
    assert ('class="answered unlike"' in html) == bool(flagged)
    if flagged:
        assert html.index(line) < html.index("<img")
        assert html.index(line) < html.index('class="decision"')
    assert row.as_json()["unlike"] is flagged
    assert list(row.as_json())[-1] == "unlike"


def test_a_heat_map_belongs_to_its_image(judges):
    images = [judges.prepare(cell(number)) for number in range(3)]
    together = judges.answer(images)
    for image, answer in zip(images, together, strict=True):
        assert answer.heat.shape == image[0].shape[:2]
        assert 0 <= answer.heat.min() <= answer.heat.max() <= 1 + 1e-6
        (alone,) = judges.answer([image])
        np.testing.assert_allclose(answer.heat, alone.heat, atol=1e-3)


def test_no_probability_is_rounded_to_certainty():
    shares = (0.99999, 0.00001, 0.5, 0.0, 1.0)
    said = [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in shares]
    assert said == ["> 99.9 %", "< 0.1 %", "50.0 %", "0.0 %", "100.0 %"]
