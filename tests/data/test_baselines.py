"""What a model has to beat."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from trees import cell

from leukjax import config
from leukjax.data.baselines import SHORTCUTS, baselines, numbers_of
from leukjax.data.datasets import prepare
from leukjax.data.image_stats import measure, shortcut_numbers
from leukjax.data.manifest import Manifest
from leukjax.data.split import make_split


def manifest(area, labels, classes=("all", "hem")):
    names = [f"{k:04d}" for k in range(len(labels))]
    zeros = [0] * len(labels)
    return Manifest(
        classes, names, names, labels, names, names, [""] * len(labels), names, names, zeros, area
    )


def test_larger_class():
    labels = np.array([0] * 60 + [1] * 30)
    m = manifest(np.full(90, 0.2), labels)
    split = make_split(m, "subject", 0)
    larger, _ = baselines(m, split)
    assert larger.name == "larger class"
    assert larger.description == "every image classified as all"
    for part in ("val", "test"):
        probabilities = larger.probabilities[part]
        assert probabilities.shape == (len(split.rows(part)), 2)
        np.testing.assert_allclose(probabilities, [[2 / 3, 1 / 3]] * len(probabilities))


def test_area_tells_what_area_can_tell():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 2
    m = manifest(0.2 + 0.1 * labels + random.normal(0, 0.01, 300), labels)
    split = make_split(m, "subject", 0)
    _, area = baselines(m, split)
    right = area.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]
    assert right.mean() == 1
    blind = manifest(random.uniform(0.1, 0.3, 300), labels)
    _, area = baselines(blind, split)
    right = area.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]
    assert right.mean() < 0.75


def test_probabilities_of_any_number_of_classes():
    labels = np.arange(120) % 4
    m = manifest(0.1 * labels + 0.05, labels, tuple("abcd"))
    for row in baselines(m, make_split(m, "subject", 0)):
        probabilities = row.probabilities["test"]
        assert probabilities.shape[1] == 4
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_test_part_is_not_fitted():
    labels = np.arange(60) % 2
    area = 0.2 + 0.1 * labels
    m = manifest(area, labels)
    split = make_split(m, "subject", 0)
    turned = area.copy()
    turned[split.part == "test"] = 0.5 - turned[split.part == "test"]
    _, straight = baselines(m, split)
    _, crooked = baselines(manifest(turned, labels), split)
    assert (straight.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]).all()
    assert (crooked.probabilities["test"].argmax(axis=1) != labels[split.rows("test")]).all()


def test_shortcuts_tell_what_any_of_their_numbers_tells():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    m = manifest(random.uniform(0.1, 0.3, 300), labels, tuple("abc"))
    split = make_split(m, "subject", 0)
    noise = random.normal(size=(300, 2))
    numbers = {"colour": noise, "file size": 1000.0 * (labels == 1)[:, None] + noise[:, :1]}
    assert [row.name for row in baselines(m, split)] == ["larger class", "cell area alone"]
    *_, row = baselines(m, split, "black", numbers)
    assert (row.name, "colour, file size" in row.description) == (SHORTCUTS, True)
    for part in ("val", "test"):
        named = row.probabilities[part].argmax(axis=1) == 1
        assert (named == (labels[split.rows(part)] == 1)).all()
    numbers["file size"][split.part == "test"] = 0  # the test part is not fitted
    *_, row = baselines(m, split, "black", numbers)
    assert (row.probabilities["test"].argmax(axis=1) != 1).mean() > 0.9


def test_the_numbers_are_those_of_the_images_and_files(tmp_path):
    data = config.load("default:image_folder", {"data.root": str(tmp_path / "in")}).data
    data.update(cache_dir=str(tmp_path / "cache"), image_size=40, background="black")
    for k in range(70):  # more than one part
        path = tmp_path / "in" / "ab"[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell(k, 40)).save(path)
    records = prepare(data)
    found = numbers_of(records, threads=2)
    assert list(found) == ["area", "brightness", "colour", "shape", "border", "file size"]
    for row, name in enumerate(records.manifest.path.tolist()):
        image = np.asarray(Image.open(tmp_path / "in" / name))
        expected = shortcut_numbers(image, records.background)
        for kind, values in expected.items():
            np.testing.assert_allclose(found[kind][row], values)
        assert found["file size"][row] == (tmp_path / "in" / name).stat().st_size


@pytest.mark.parametrize(
    ("background", "words"), [("black", "above black"), ("bright", "Otsu's threshold")]
)
def test_the_rule_is_said(background, words):
    labels = np.arange(40) % 2
    area = [measure(cell(k, 40, background), background).area for k in range(40)]
    m = manifest(area, labels)
    _, row = baselines(m, make_split(m, "subject", 0), background)
    assert words in row.description


def test_a_large_set_is_fitted_to_a_sample_of_each_class(monkeypatch):
    monkeypatch.setattr("leukjax.data.baselines._FITTED", 300)
    random = np.random.default_rng(0)
    labels = np.arange(3000) % 50 == 0  # 60 of the rare class
    m = manifest(0.2 + 0.1 * labels + random.normal(0, 0.01, 3000), labels.astype(int))
    seen = []
    fit = LogisticRegression.fit

    def counted(model, values, labels, *rest):
        seen.append(np.bincount(labels).tolist())
        return fit(model, values, labels, *rest)

    monkeypatch.setattr(LogisticRegression, "fit", counted)
    split = make_split(m, "subject", 0)
    _, area = baselines(m, split)
    ((common, rare),) = seen
    train = np.bincount(m.label[split.rows("train")])
    assert common == round(300 / train.sum() * train[0])
    assert rare == min(50, train[1])
    test = split.rows("test")
    assert area.probabilities["test"].argmax(1).tolist() == m.label[test].tolist()
