"""Predictions of the page: ensembles, abstention, out-of-distribution score, heat maps."""

import dataclasses

import jax
import numpy as np
import pytest
from form import cell

import leukjax
from leukjax.demo.heatmaps import Heatmaps
from leukjax.demo.options import Options
from leukjax.demo.predictors import load_predictor
from leukjax.demo.view_model import image_view, percent
from leukjax.metrics.thresholds import ConfidenceThreshold
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(trained_run):
    return load_predictor([str(trained_run)], Options())


def test_the_range_of_an_ensemble_is_that_of_its_members(predictor):
    member = predictor.predictor.member
    other = dataclasses.replace(member, variables=jax.tree.map(lambda x: 0.7 * x, member.variables))
    both = Predictor((member, other))
    ensemble = dataclasses.replace(predictor, predictor=both, heatmaps=Heatmaps(both))
    (prediction,) = ensemble.predict([ensemble.prepare(cell(1))])
    by_member = np.concatenate([Predictor((m,)).predict([cell(1)]) for m in both.members])
    np.testing.assert_allclose(prediction.probabilities, by_member.mean(0), atol=1e-5)
    np.testing.assert_allclose(prediction.low, by_member.min(0), atol=1e-5)
    np.testing.assert_allclose(prediction.high, by_member.max(0), atol=1e-5)
    assert (prediction.low < prediction.high).all()


def test_with_tta_the_probability_is_that_of_predict(trained_run):
    predictor = load_predictor([str(trained_run)], Options(tta=True))
    predictions = predictor.predict([predictor.prepare(cell(number)) for number in (1, 2)])
    expected = leukjax.load(trained_run, tta=True).predict([cell(1), cell(2)])
    np.testing.assert_allclose([p.probabilities for p in predictions], expected, atol=1e-5)
    for prediction in predictions:
        assert (prediction.low <= prediction.probabilities + 1e-6).all()
        assert (prediction.probabilities <= prediction.high + 1e-6).all()


@pytest.mark.parametrize(("least", "abstains"), [(0.5, False), (1.01, True)])
def test_it_abstains_below_the_confidence(predictor, least, abstains):
    threshold = ConfidenceThreshold(least, 0.5, 0.0, 5)
    strict = dataclasses.replace(predictor, threshold=threshold)
    image = strict.prepare(cell(1))
    (prediction,) = strict.predict([image])
    view = image_view("a.png", image, (), prediction, strict)
    assert prediction.abstained == abstains
    assert (view.predicted == "") == abstains
    assert bool(view.reason) == abstains
    assert view.likeliest in strict.classes


def test_the_distance_is_that_of_the_features(predictor):
    member = predictor.predictor.member
    image = predictor.prepare(cell(1))
    features = member.outputs(np.stack(image)).features
    distance = FeatureDistance(member.step, np.zeros_like(features), np.eye(features.shape[1]), 2.0)
    (prediction,) = dataclasses.replace(predictor, distances=(distance,)).predict([image])
    assert prediction.distance == pytest.approx(np.linalg.norm(features) / 2, rel=1e-4)


@pytest.mark.parametrize(("distance", "flagged"), [(3.5, True), (0.5, False), (None, None)])
def test_the_flag_of_an_unlike_image_precedes_its_class(predictor, page, distance, flagged):
    image = predictor.prepare(cell(1))
    prediction = dataclasses.replace(predictor.predict([image])[0], distance=distance)
    view = image_view("a.png", image, (), prediction, predictor)
    html = page._results.render(images=[view], error="")
    line = "Unlike the training images: do not rely on the class below."
    assert (line in html) == bool(flagged)
    assert ('class="classified unlike"' in html) == bool(flagged)
    if flagged:
        assert html.index(line) < html.index("<img")
        assert html.index(line) < html.index('class="decision"')
    assert view.as_json()["unlike"] is flagged
    assert list(view.as_json())[-1] == "unlike"


def test_a_heat_map_belongs_to_its_image(predictor):
    images = [predictor.prepare(cell(number)) for number in range(3)]
    batch = predictor.predict(images)
    for image, prediction in zip(images, batch, strict=True):
        assert prediction.heatmap.shape == image[0].shape[:2]
        assert 0 <= prediction.heatmap.min() <= prediction.heatmap.max() <= 1 + 1e-6
        (alone,) = predictor.predict([image])
        np.testing.assert_allclose(prediction.heatmap, alone.heatmap, atol=1e-3)


def test_no_probability_is_rounded_to_certainty():
    shares = (0.99999, 0.00001, 0.5, 0.0, 1.0)
    texts = [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in shares]
    assert texts == ["> 99.9 %", "< 0.1 %", "50.0 %", "0.0 %", "100.0 %"]
