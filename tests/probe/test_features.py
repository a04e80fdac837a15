"""Features: the same bits from the cache, after a kill, and on any number of devices."""

import os

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.models.registry import create_model, model_from_config
from leukjax.predict.predictor import load
from leukjax.probe import backbone, features
from leukjax.probe.stored_arrays import StoredArrays
from leukjax.rundir import RunDir
from leukjax.training.training_data import records_of


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "model"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    fields = {
        "data.cache_dir": str(tmp_path_factory.mktemp("cache")),
        "data.smears_subjects": 12,
        "data.smears_cells": 9,
        "data.image_size": 24,
    }
    return configs.load("cnn", fields)


@pytest.fixture(scope="module")
def records(config):
    found = records_of(config)
    assert len(found) > 3 * features.CHUNK
    assert len(found) % features.CHUNK  # the last chunk is padded
    return found


@pytest.fixture(scope="module")
def network(config, records):
    module = create_model("cnn", num_classes=2, width=4)
    return backbone.make(config, module, records.classes, mesh(1))


@pytest.fixture(scope="module")
def direct(network, records):
    """Features without the cache: chunk by chunk, padded."""
    outputs = {"features": [], "tokens": []}
    for start in range(0, len(records), features.CHUNK):
        rows = np.arange(start, min(start + features.CHUNK, len(records)))
        batch = np.zeros((features.CHUNK, 24, 24, 3), np.uint8)
        batch[: len(rows)] = records.images(rows)
        for name, values in network(batch).items():
            outputs[name].append(np.asarray(values)[: len(rows)])
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def compute(network, records, folder, **options):
    return features.compute(network, records, cache_dir=str(folder), **options)


def count_calls(monkeypatch):
    calls = []
    call = backbone.Backbone.__call__
    monkeypatch.setattr(
        backbone.Backbone, "__call__", lambda self, images: calls.append(1) or call(self, images)
    )
    return calls


def test_cached_features_equal_those_computed_directly(
    network, records, direct, tmp_path, monkeypatch
):
    calls = count_calls(monkeypatch)
    for _ in range(2):
        made = compute(network, records, tmp_path)
        np.testing.assert_array_equal(made.pooled, direct["features"])
        assert made.pooled.dtype == np.float32
        assert made.tokens is None
    chunks = -(-len(records) // features.CHUNK)
    assert len(calls) == chunks
    made = compute(network, records, tmp_path, tokens=True)  # computes all again, for the tokens
    np.testing.assert_array_equal(made.tokens, direct["tokens"])
    np.testing.assert_array_equal(made.pooled, direct["features"])
    assert made.tokens.shape == (len(records), 9, 32)
    compute(network, records, tmp_path)
    assert len(calls) == 2 * chunks


def test_sharded_features_have_the_same_bits(config, network, records, direct, tmp_path):
    sharded = backbone.make(config, network.module, records.classes, mesh(8))
    made = compute(sharded, records, tmp_path, tokens=True)
    np.testing.assert_array_equal(made.pooled, direct["features"])
    np.testing.assert_array_equal(made.tokens, direct["tokens"])


def test_a_killed_computation_is_continued(network, records, direct, tmp_path, monkeypatch):
    write, written = StoredArrays.write, []

    def dies(self, chunk, values):
        if len(written) == 2:
            # As a kill in the middle of a chunk would: values without their checksum.
            self._arrays["features"].write(chunk * features.CHUNK, values["features"])
            raise KeyboardInterrupt
        written.append(chunk)
        write(self, chunk, values)

    with monkeypatch.context() as patched:
        patched.setattr(StoredArrays, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            compute(network, records, tmp_path)
    calls = count_calls(monkeypatch)
    np.testing.assert_array_equal(compute(network, records, tmp_path).pooled, direct["features"])
    assert len(calls) == -(-len(records) // features.CHUNK) - 2


def test_a_damaged_cache_is_repaired_and_links_are_not_followed(
    network, records, direct, tmp_path, monkeypatch
):
    compute(network, records, tmp_path)
    (file,) = tmp_path.glob("features/*/features.npy")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    calls = count_calls(monkeypatch)
    np.testing.assert_array_equal(compute(network, records, tmp_path).pooled, direct["features"])
    assert len(calls) == 1
    target = tmp_path / "elsewhere.npy"
    os.replace(file, target)
    before = target.read_bytes()
    file.symlink_to(target)
    np.testing.assert_array_equal(compute(network, records, tmp_path).pooled, direct["features"])
    assert not file.is_symlink()
    assert target.read_bytes() == before
    np.save(file, np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(compute(network, records, tmp_path).pooled, direct["features"])


def test_the_key_depends_on_weights_model_and_normalisation():
    def identity(weights="a", mean=0.5, **options):
        module = create_model("cnn", **{"num_classes": 2, "width": 4, **options})
        return backbone._identity(module, weights, np.full(3, mean), np.ones(3))

    same = identity()
    assert identity(num_classes=5) == same  # the head takes no part
    others = [identity(weights="b"), identity(mean=0.4), identity(width=5), identity(norm="group")]
    assert len({same, *others}) == 5
    assert not backbone._identity(Pooled(), "a", np.ones(3), np.ones(3))


def test_weights_of_a_run_give_the_features_of_the_run(trained_run, caplog):
    config = RunDir(trained_run).config([("data.threads", 2)])
    config.init.weights = str(trained_run)
    records = records_of(config)
    module = model_from_config(config, 2, "cpu")
    with caplog.at_level("WARNING"):
        made = backbone.make(config, module, records.classes, mesh(1))
    assert "may have trained on images that are tested here" in caplog.text
    images = records.images(np.arange(features.CHUNK))
    expected = load(trained_run).features(images)
    np.testing.assert_allclose(made(images)["features"], expected, rtol=1e-4, atol=1e-5)


class Silent(nn.Module):
    """A model that sows nothing."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes)(images.mean((1, 2)))


class Pooled(Silent):
    """A model that sows the input of its head alone."""

    @nn.compact
    def __call__(self, images, *, train):
        x = images.mean((1, 2))
        self.sow("intermediates", "pooled", x)
        return nn.Dense(self.num_classes)(x)


def test_models_without_features(config, records, tmp_path):
    silent = backbone.make(config, Silent(), records.classes, mesh(1))
    with pytest.raises(UserError, match="model Silent: sows no features"):
        compute(silent, records, tmp_path)
    pooled = backbone.make(config, Pooled(), records.classes, mesh(1))
    with pytest.raises(UserError, match="attentive needs a model that sows its feature_map"):
        compute(pooled, records, tmp_path, tokens=True)
    assert compute(pooled, records, tmp_path).pooled.shape == (len(records), 3)
    assert not list(tmp_path.iterdir())  # its code may change: nothing is kept


@pytest.mark.parametrize(
    ("field", "value"), [("mean", "fit"), ("std", "fit"), ("stain", "reinhard")]
)
def test_nothing_is_fitted_to_images(config, records, field, value):
    fitted = config.copy_and_resolve_references()
    fitted.data[field] = value
    with pytest.raises(UserError, match=rf"--config\.data\.{field}={value}: is fitted to training"):
        backbone.make(fitted, Pooled(), records.classes, mesh(1))
