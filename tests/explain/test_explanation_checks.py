"""Checks of maps: randomised parameters, curves of deletion and insertion, supported methods."""

import explanation_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from linear import Pooled, network

from leukjax.errors import UserError
from leukjax.explain import explainer
from leukjax.explain.methods import check, defaults
from leukjax.explain.network import Network
from leukjax.models.registry import create_model


def test_layers_are_in_order_of_computation_and_randomised_alone():
    module = create_model("cnn", 2, width=4)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    net = Network(module, {k: variables[k] for k in ("params", "batch_stats")})
    order = checks.layers(net, 16)
    assert order == [
        *(f"{kind}{stage}" for stage in range(1, 5) for kind in ("conv", "norm")), "hidden", "fc"
    ]  # fmt: skip
    changed = checks.randomised(net, ["conv2"]).variables
    before, after = (traverse_util.flatten_dict(v) for v in (net.variables, changed))
    for path, value in before.items():
        assert np.array_equal(value, after[path]) == ("conv2" not in path), path
    kernel = ("params", "conv2", "kernel")
    assert np.std(after[kernel]) == pytest.approx(float(np.std(before[kernel])), rel=0.2)
    assert abs(np.corrcoef(np.ravel(before[kernel]), np.ravel(after[kernel]))[0, 1]) < 0.2


def test_a_layer_gets_the_same_values_alone_and_in_a_cascade():
    net = network(Pooled(), 8)
    alone = checks.randomised(net, ["head"], seed=3)
    cascade = checks.randomised(net, ["head", "conv"], seed=3)
    kernel = lambda n: n.variables["params"]["head"]["kernel"]  # noqa: E731
    np.testing.assert_array_equal(kernel(alone), kernel(cascade))
    assert not np.array_equal(kernel(alone), kernel(net))


def test_rank_correlation():
    values = np.arange(12.0).reshape(3, 4)
    assert checks.rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert checks.rank_correlation(values, -values) == pytest.approx(-1)
    assert checks.rank_correlation(values, np.ones((3, 4))) == 0


def _cell():
    rows, columns = np.mgrid[:16, :16] - 7.5
    cell = np.hypot(rows, columns) < 6
    image = np.where(cell[..., None], 90, 0).astype(np.uint8) * np.ones(3, np.uint8)
    image[6:10, 6:10] = 200
    return image, cell


def test_a_baseline_keeps_the_background():
    image, cell = _cell()
    for blank in (explainer.blurred(image, cell, 3.0), checks.mean_cell(image, cell)):
        assert (blank[~cell] == 0).all()
        # The black background is not blurred into the rim.
        assert blank[cell].min() >= 90
        assert blank[cell].max() < 140
    assert np.ptp(checks.mean_cell(image, cell)[cell], axis=0).max() == 0


def test_deletion_replaces_the_largest_first_and_only_the_cell():
    image, cell = _cell()
    blank = checks.mean_cell(image, cell)
    truth = np.zeros((16, 16))
    truth[6:10, 6:10] = 1
    frames = checks.replaced(image, blank, truth, cell, 8)
    np.testing.assert_array_equal(frames[0], image)
    np.testing.assert_array_equal(frames[-1], blank)
    counts = [(frame != image).any(-1).sum() for frame in frames]
    assert counts[1] == round(cell.sum() / 8)  # the bright square has 16 of some 112
    assert (frames[2][6:10, 6:10] == blank[7, 7]).all()


def test_a_map_of_the_relevant_pixels_beats_chance_and_the_centre():
    image, cell = _cell()
    image[6:10, 6:10] = 90
    image[3:6, 7:10] = 200  # off the centre
    truth = np.zeros((16, 16))
    truth[3:6, 7:10] = 1

    def predict(images):
        bright = (images[:, 3:6, 7:10].astype(float).mean((1, 2, 3)) - 90) / 110
        return np.stack([1 - bright, bright], 1)

    area = {}
    for name, map in (
        ("truth", truth),
        ("random", checks.random_map(16, 0)),
        ("centre", checks.centre_gaussian(16)),
    ):
        deleted, inserted = checks.curves(
            predict, image, checks.mean_cell(image, cell), map, cell, 1, 20
        )
        assert deleted[0] == inserted[-1] == pytest.approx(1)
        area[name] = deleted.mean(), inserted.mean()
    for other in ("random", "centre"):
        assert area["truth"][0] < area[other][0] - 0.2
        assert area["truth"][1] > area[other][1] + 0.2


def test_unsupported_methods_are_rejected():
    cnn, hybrid = ("cnn", "convolutional"), ("hybrid_vit", "transformer")
    check(["gradcam", "attention"], [cnn, hybrid])
    for form in ("convolutional", "transformer", "other"):
        check(defaults(form), [("mine", form)])
    for methods, models, message in (
        (["rollout"], [cnn], "--method=rollout: is not for cnn, which has gradcam, "),
        (["gradcam"], [hybrid], "--method=gradcam: is not for hybrid_vit, which has rollout"),
        (["gradcam"], [cnn, hybrid], "is not for hybrid_vit"),
        (["gradcamm"], [cnn], "no such method; one of gradcam, "),
        (["gradcam", "gradcam"], [cnn], "is given twice"),
    ):
        with pytest.raises(UserError, match="--method") as error:
            check(methods, models)
        assert message in str(error.value)
