"""A loaded run predicts what the run itself predicted, for any images in any batch."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax.data import Arrays, datasets
from leukjax.errors import UserError
from leukjax.metrics import calibration, predictions
from leukjax.predict import member as compiled
from leukjax.predict.member import Member, dihedral
from leukjax.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(trained_run) -> Predictor:
    return leukjax.load(trained_run, batch_size=16)


@pytest.fixture(scope="module")
def model(predictor) -> Member:
    (member,) = predictor.members
    return member


@pytest.fixture(scope="module")
def test_part(trained_run, model) -> tuple[np.ndarray, np.ndarray]:
    """The run's test images, prepared again, and their probabilities in its table."""
    expected = predictions.read(trained_run / "predictions" / "test.csv")
    prepared = datasets.prepare(model.config.data)
    row_of = {name: row for row, name in enumerate(prepared.manifest.id.tolist())}
    rows = np.array([row_of[name] for name in expected.id.tolist()])
    return prepared.images(rows), expected.probabilities


def changed(run: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of a run with one of its files changed."""
    shutil.copytree(run, folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return folder


def test_importing_leukjax_imports_no_jax():
    code = "import sys, leukjax; dir(leukjax); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.smoke
def test_probabilities_are_those_of_the_run(predictor, test_part):
    images, expected = test_part
    assert len(images) > 16
    found = predictor.predict(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    # Not constant: a model that ignores its input would pass every test of this file.
    assert np.ptp(found[:, 0]) > 0.01


def test_batch_and_order_change_nothing(predictor, test_part, trained_run):
    images, _ = test_part
    expected = predictor.predict(images)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_allclose(predictor.predict(images[order]), expected[order], rtol=0, atol=1e-5)
    alone = np.concatenate([predictor.predict(image[None]) for image in images[:5]])
    np.testing.assert_allclose(alone, expected[:5], rtol=0, atol=1e-5)
    large = leukjax.load(trained_run, batch_size=64).predict(images)
    np.testing.assert_allclose(large, expected, rtol=0, atol=1e-5)
    assert predictor.predict(images[:0]).shape == (0, 2)


def test_one_compilation_serves_every_number_of_images(predictor, test_part):
    images, _ = test_part
    predictor.predict(images)
    before = compiled._forward._cache_size()
    for count in (1, 2, 7, 16, 17):
        predictor.predict(images[:count])
    assert compiled._forward._cache_size() == before


def test_files_arrays_and_prepared_images_agree(predictor, test_part, tmp_path):
    images, _ = test_part
    for number, image in enumerate(images[:3]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    expected = predictor.predict(images[:3])
    np.testing.assert_array_equal(predictor.predict(files), expected)
    np.testing.assert_array_equal(predictor.predict([str(files[0]), images[1], files[2]]), expected)


def test_logits_and_features_belong_to_the_probabilities(predictor, model, test_part):
    images = test_part[0][:5]
    logits = model.logits(model.normalize(images))
    np.testing.assert_allclose(jax.nn.softmax(logits), predictor.predict(images), atol=1e-6)
    features = predictor.features(images)
    head = model.variables["params"]["fc"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-5)


def test_views_are_the_eight_of_the_square():
    image = np.arange(2 * 9 * 3).reshape(2, 3, 3, 3)
    views = np.asarray(dihedral(image))
    assert len({view[0].tobytes() for view in views}) == 8
    np.testing.assert_array_equal(views[0], image)
    again = np.asarray(dihedral(views[5]))
    assert {v.tobytes() for v in again} == {v.tobytes() for v in views}


def test_the_mean_over_views_ignores_the_orientation(trained_run, predictor, test_part):
    images = test_part[0][:4]
    turning = leukjax.load(trained_run, tta=True, batch_size=16)
    found = turning.predict(images)
    each = [predictor.predict(np.asarray(view)) for view in dihedral(images)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    assert np.ptp(each, axis=0).max() > 1e-3  # the views do differ for the plain model
    np.testing.assert_allclose(turning.predict(images[:, ::-1]), found, atol=1e-5)


def test_calibrated_probabilities_are_rescaled_by_what_fits_validation(trained_run, test_part):
    images, plain = test_part
    val = predictions.read(trained_run / "predictions" / "val.csv")
    heat = calibration.temperature(val.labels, val.probabilities)
    assert abs(heat - 1) > 0.01
    found = leukjax.load(trained_run, calibrated=True).predict(images)
    np.testing.assert_allclose(found, calibration.rescale(plain, heat), atol=1e-5)


def test_an_ensemble_is_the_mean(trained_run, test_part):
    images = list(test_part[0][:5])
    steps = [10, 5]
    first, second = (leukjax.load(trained_run, step) for step in steps)
    both = Predictor((*first.members, *second.members))
    expected = (first.predict(images) + second.predict(images)) / 2
    np.testing.assert_allclose(both.predict(images), expected, atol=1e-7)
    assert np.abs(first.predict(images) - second.predict(images)).max() > 1e-3
    both = leukjax.load([trained_run, trained_run])
    assert both.workdirs == (trained_run, trained_run)
    assert both.features(images).shape == (5, 2 * first.members[0].feature_width)


def test_images_of_the_final_phase_are_cropped_not_shrunk(trained_run, tmp_path):
    config = changed(trained_run, tmp_path / "a", "config.json", '"smears"', '"cnmc"')
    run = changed(config, tmp_path / "run", "preprocessing.json", '"smears"', '"cnmc"')
    (cnmc,) = leukjax.load(run).members
    image = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    np.testing.assert_array_equal(cnmc.preprocess(image), cnmc.preprocess(image[75:525, 75:525]))
    (other,) = leukjax.load(trained_run).members
    assert (other.preprocess(image) != other.preprocess(image[75:525, 75:525])).any()


def test_unfinished_or_inconsistent_runs_are_refused(trained_run, tmp_path):
    with pytest.raises(UserError, match=r"no run \(no preprocessing.json\)"):
        leukjax.load(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained_run, unfinished)
    for step in (5, 10):
        (unfinished / "checkpoints" / str(step) / "checksums.json").unlink()
    with pytest.raises(UserError, match="holds no finished checkpoint"):
        leukjax.load(unfinished)
    with pytest.raises(UserError, match="no checkpoint of step 7; there are latest, 5, 10"):
        leukjax.load(trained_run, 7)
    other = changed(trained_run, tmp_path / "o", "preprocessing.json", '"width": 8', '"width": 4')
    with pytest.raises(UserError, match=r"model: differs from config\.json"):
        leukjax.load(other)
    other = changed(other, tmp_path / "both", "config.json", '"width": 8', '"width": 4')
    with pytest.raises(UserError, match="of another model"):
        leukjax.load(other)
    renamed = changed(trained_run, tmp_path / "c", "preprocessing.json", '"hem"', '"healthy"')
    with pytest.raises(UserError, match="an ensemble needs the same classes"):
        leukjax.load([trained_run, renamed])


def test_a_damaged_best_checkpoint_is_never_used(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    file = next((run / "checkpoints" / "10").glob("state/d/*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        leukjax.load(run)
    before = sorted(run.rglob("*"))
    leukjax.load(run, 5)  # another step can be chosen by its number
    assert sorted(run.rglob("*")) == before  # and nothing is changed


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("cell.png", "give a list of images"),
        (np.zeros((2, 30, 30, 3), np.uint8), "give images of other sizes as a list"),
        (np.zeros((2, 24, 24, 3), np.float32), "an array of prepared images is uint8"),
        ([np.zeros((30, 30), np.uint8)], r"an image is uint8\[h, w, 3\]"),
        (["nowhere.png"], "nowhere.png: cannot be read"),
    ],
)
def test_inputs_that_are_not_images_are_refused(predictor, images, message):
    with pytest.raises(UserError, match=message):
        predictor.predict(images)


@pytest.fixture(scope="module")
def cells(model) -> Arrays:
    """The images of the run's data set, as arrays in memory."""
    prepared = datasets.prepare(model.config.data)
    images = prepared.images(np.arange(len(prepared.manifest)))
    table = prepared.manifest
    return Arrays(images, table.label, table.subject, classes=prepared.classes, background="black")


def test_evaluate_scores_a_data_set_by_image_and_by_subject(predictor, cells):
    rows = np.arange(0, len(cells), 3)
    found = predictor.evaluate(cells.subset(rows, "third"))
    np.testing.assert_array_equal(found.predictions.id, cells.manifest.id[rows])
    expected = predictor.predict(cells.prepare(24).images(rows))
    np.testing.assert_array_equal(found.predictions.probabilities, expected)
    right = expected.argmax(axis=1) == cells.manifest.label[rows]
    assert found.by_image["accuracy"].value == pytest.approx(right.mean())
    assert found.counts["subjects"] == 18
    assert repr(found).startswith("arrays, third: ")
    assert "No subjects known" not in repr(found)
    strict = predictor.evaluate(cells.subset(rows), threshold=0.99)
    assert strict.by_image["recall"].value <= found.by_image["recall"].value
    whole = predictor.evaluate(cells)
    assert len(whole.predictions) == len(cells)
    again = predictor.evaluate(cells.prepare(24))
    assert again.by_image == whole.by_image


def test_labels_are_matched_by_the_name_of_their_class(predictor, cells):
    images = cells.prepare(24).images(np.arange(8))
    labels = cells.manifest.label[:8]
    swapped = Arrays(images, 1 - labels, classes=cells.classes[::-1], background="black")
    np.testing.assert_array_equal(predictor.predict_dataset(swapped).labels, labels)
    assert "No subjects known" in repr(predictor.evaluate(swapped))
    other = Arrays(images, labels, classes=("all", "blast"), background="black")
    with pytest.raises(ValueError, match="'blast', which the run does not know"):
        predictor.evaluate(other)
    unlabelled = Arrays(images, np.where(labels == 0, -1, labels), classes=cells.classes)
    with pytest.raises(ValueError, match="images have no label"):
        predictor.evaluate(unlabelled)
    with pytest.raises(ValueError, match="the records have 16 px"):
        predictor.evaluate(cells.prepare(16))


def test_a_given_module_replaces_the_one_of_the_config(trained_run, model, test_part):
    images = test_part[0][:3]
    own = leukjax.load(trained_run, model=model.module)
    assert own.members[0].module is model.module
    np.testing.assert_allclose(own.predict(images), leukjax.load(trained_run).predict(images))
    assert repr(own).startswith(f"Predictor({trained_run} (step ")
