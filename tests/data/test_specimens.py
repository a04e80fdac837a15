"""Synthetic cells: reproducible, true to their parameters, different by class, like real ones."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from leukjax.data.synthetic import specimens
from leukjax.data.synthetic.specimens import draw


@pytest.fixture(scope="module")
def sample() -> specimens.SyntheticCells:
    return draw(0, 60, 20)


@pytest.fixture(scope="module")
def intact(sample):
    """Rows of cells that the segmentation neither cut into nor added much to."""
    p = sample.parameters
    return (p["flap"] == 0) & (p["spike"] == 0) & (p["bite"] == 0) & (p["cut"] > 1)


def assert_same(a: specimens.SyntheticCells, b: specimens.SyntheticCells, rows=slice(None)):
    for name in ("images", "label", "subject", "cell", "nucleus", "nucleoli"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[rows], err_msg=name)
    assert a.parameters.keys() == b.parameters.keys()
    for name, values in a.parameters.items():
        np.testing.assert_array_equal(values, b.parameters[name][rows], err_msg=name)


def test_the_seed_decides():
    first = draw(3, 4, 5, 32)
    assert_same(first, draw(3, 4, 5, 32))
    other = draw(4, 4, 5, 32)
    assert first.images.shape != other.images.shape or (first.images != other.images).any()


def test_a_subject_does_not_depend_on_the_others():
    many, few = draw(3, 6, 5, 32), draw(3, 2, 5, 32)
    assert_same(few, many, slice(len(few)))


def test_blocks_are_the_same_cells_one_after_the_other():
    whole = draw(1, 2, 80, 24)
    blocks = list(specimens.draw_blocks(1, 2, 80, 24))
    assert len(blocks) > 4
    assert max(len(block) for block in blocks) == specimens.BLOCK
    start = 0
    for block in blocks:
        assert_same(block, whole, slice(start, start + len(block)))
        start += len(block)
    assert start == len(whole)
    first = whole.parameters["subject_index"] == 0
    assert whole.parameters["number"][first].tolist() == list(range(first.sum()))
    assert len(np.unique(whole.images.reshape(len(whole), -1), axis=0)) == len(whole)


def test_shapes_and_types(sample):
    n = len(sample)
    assert sample.images.shape == (n, 96, 96, 3)
    assert sample.images.dtype == np.uint8
    assert sample.label.dtype == np.int32
    for mask in (sample.cell, sample.nucleus, sample.nucleoli):
        assert mask.shape == (n, 96, 96)
        assert mask.dtype == bool
    for name, values in sample.parameters.items():
        assert len(values) == n, name
        assert np.isfinite(values).all(), name


def test_subjects_and_classes(sample):
    assert 1080 <= len(sample) <= 1320
    names, sizes = np.unique(sample.subject, return_counts=True)
    assert set(names) == {f"{h}{k}" for h in ("", "H") for k in range(1, 31)}
    assert sizes.std() > 2
    assert sizes.min() >= 5
    healthy = np.char.startswith(sample.subject, "H")
    np.testing.assert_array_equal(healthy, sample.label == specimens.CLASSES.index("hem"))
    assert 0.44 < sample.label.mean() < 0.56


def test_masks_nest_on_exact_black(sample):
    assert not (sample.nucleoli & ~sample.nucleus).any()
    assert not (sample.nucleus & ~sample.cell).any()
    np.testing.assert_array_equal(sample.images.any(-1), sample.cell)
    assert sample.nucleus.any((1, 2)).all()
    assert (sample.cell.sum((1, 2)) > sample.nucleus.sum((1, 2))).all()


def test_the_cell_fills_the_frame_as_it_should(sample):
    share = sample.cell.mean((1, 2))
    assert share.min() > 0.12
    assert share.max() < 0.72
    assert 0.33 < share.mean() < 0.5


def test_masks_agree_with_the_parameters(sample, intact):
    p = sample.parameters
    radius = np.sqrt(sample.cell.mean((1, 2)) * 4 / np.pi)[intact]
    expected = (p["cell_radius"] + p["segmentation_margin"])[intact]
    np.testing.assert_allclose(radius, expected, rtol=0.12)
    assert abs(np.mean(radius / expected) - 1) < 0.02
    ratio = (sample.nucleus.sum((1, 2)) / sample.cell.sum((1, 2)))[intact]
    assert np.corrcoef(ratio, p["nucleus_ratio"][intact])[0, 1] > 0.8
    has = sample.nucleoli.any((1, 2))
    assert (has == (p["nucleoli_count"] > 0)).mean() > 0.97
    assert not has[p["nucleoli_count"] == 0].any()


def test_nucleoli_are_paler(sample):
    level = sample.images[..., 1].astype(float)
    rows = np.flatnonzero(sample.nucleoli.sum((1, 2)) > 30)
    inside = np.array([level[i][sample.nucleoli[i]].mean() for i in rows])
    around = np.array([level[i][sample.nucleus[i] & ~sample.nucleoli[i]].mean() for i in rows])
    assert len(rows) > 200
    assert (inside > around).mean() > 0.95


def texture(sample, low: float, high: float) -> np.ndarray:
    """Standard deviation of the green optical density in a band of scales, inside the nucleus."""
    density = -np.log(np.maximum(sample.images[..., 1], 1) / 255)
    density = np.where(sample.nucleus, density, 0)
    out = np.zeros(len(sample))
    for i in range(len(sample)):
        inner = ndimage.binary_erosion(sample.nucleus[i], iterations=8) & ~sample.nucleoli[i]
        band = cv2.GaussianBlur(density[i], (0, 0), low) - cv2.GaussianBlur(
            density[i], (0, 0), high
        )
        out[i] = band[inner].std() if inner.sum() > 50 else np.nan
    return out


def test_every_class_feature_differs_and_none_decides(sample):
    blast = sample.label == 0
    p = sample.parameters
    coarse, fine = texture(sample, 2.0, 4.0), texture(sample, 0.8, 1.6)
    measured = {
        "area": sample.cell.mean((1, 2)),
        "nucleus to cytoplasm": sample.nucleus.sum((1, 2)) / sample.cell.sum((1, 2)),
        "fine chromatin": -coarse,
        "grain": fine / coarse,
        "nucleoli": p["nucleoli_count"],
        "irregular nucleus": p["nucleus_irregularity"],
        "cleft nucleus": p["nucleus_cleft"] > 0,
    }
    limits = {"area": (0.6, 0.8), "cleft nucleus": (0.55, 0.75)}
    for name, values in measured.items():
        known = np.isfinite(values)
        area = roc_auc_score(blast[known], values[known])
        low, high = limits.get(name, (0.7, 0.99))
        assert low < area < high, f"{name}: AUROC {area:.3f}"


def test_what_must_not_tell_the_class_does_not(sample):
    p = sample.parameters
    first = np.unique(p["subject_index"], return_index=True)[1]
    # One value a subject is what these traits have; sixty subjects leave chance 0.5 +- 0.075.
    for name in ("haematoxylin", "eosin", "hue", "focus", "scale", "sensor_noise"):
        score = roc_auc_score(sample.label[first], p[name][first])
        assert 0.25 < score < 0.75, f"{name}: AUROC {score:.3f}"


def test_a_subject_has_a_look_of_its_own(sample):
    """Colour varies more between subjects than within: that is the fingerprint."""
    colour = np.array(
        [
            np.log(image[mask].mean(0))
            for image, mask in zip(sample.images, sample.nucleus, strict=True)
        ]
    )
    index = sample.parameters["subject_index"]
    means = np.array([colour[index == k].mean(0) for k in range(60)])
    within = colour - means[index]
    assert (means.std(0) > 1.5 * within.std(0)).all()


def test_colours_and_sizes_are_those_of_real_cells(sample, shared):
    """C-NMC's 44 cells, centre-cropped to 300 of 450 px: the frame that ours imitate."""
    files = sorted((shared / "data" / "C-NMC_Leukemia").rglob("*.bmp"))
    real = [cv2.imread(str(file))[75:375, 75:375, ::-1] for file in files]
    colours = np.array([image[image.any(-1)].mean(0) for image in real])
    ours = np.array([i[m].mean(0) for i, m in zip(sample.images, sample.cell, strict=True)])
    assert np.abs(ours.mean(0) - colours.mean(0)).max() < 12
    shares = np.array([image.any(-1).mean() for image in real])
    assert abs(sample.cell.mean() - shares.mean()) < 0.08
    assert np.abs(np.log(ours.std(0) / colours.std(0))).max() < np.log(2.5)
