"""Where images are kept: the choice from numbers, and the lookup on one device and on eight."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from leukjax import config as configs
from leukjax import sharding
from leukjax.data import image_store
from leukjax.data.loader import Batches
from leukjax.errors import UserError
from leukjax.training import data_placement
from leukjax.training.data_placement import (
    GB,
    MemoryBudget,
    batch_shardings,
    lookup_images,
    plan_placement,
)
from leukjax.training.prefetch import DevicePrefetcher

GPU = MemoryBudget(on_cpu=False, devices=4, host=8 * GB, device=2 * GB, disk=100 * GB)
CPU = MemoryBudget(on_cpu=True, devices=1, host=8 * GB, device=0, disk=100 * GB)
ROWS = np.random.default_rng(5).permutation(60)[:45]


class Noise:
    """Sixty records of noise, as `Records` gives them."""

    image_size = 16
    manifest = SimpleNamespace(label=np.arange(60, dtype=np.int32) % 2)

    def __init__(self, folder):
        self.folder = folder / "records"
        shape = (60, 16, 16, 3)
        self._pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self):
        return 60

    def images(self, rows):
        return self._pixels[rows]


@pytest.fixture
def records(tmp_path):
    return Noise(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "gigabytes", "machine", "mode", "shared", "why"),
    [
        ("auto", 1.6, GPU, "device", False, "1.60 GB of images on each of 4 within 2.00 GB"),
        ("auto", 7.9, GPU, "device", True, "7.90 GB of images over 4 within 2.00 GB"),
        ("auto", 8.1, GPU, "none", False, "above 8.00 GB (data.host_gb)"),
        ("auto", 7.9, CPU, "host", False, "the device's memory is the host's; 7.90 GB"),
        ("auto", 8.1, CPU, "none", False, "above 8.00 GB (data.host_gb)"),
        ("auto", 8.1, GPU.__class__(False, 4, 9 * GB, 2 * GB, 9 * GB), "none", False, "half of 9"),
        ("auto", 8.1, GPU.__class__(False, 4, 9 * GB, 2 * GB, None), "host", False, "within 9.00"),
        ("auto", 1.6, GPU.__class__(False, 1, 9 * GB, 0, None), "host", False, "above 0.00 GB"),
        ("device", 50.0, CPU, "device", False, "as asked"),
        ("host", 50.0, CPU, "host", False, "as asked"),
        ("none", 0.1, GPU, "none", False, "as asked"),
    ],
)
def test_the_choice(wanted, gigabytes, machine, mode, shared, why):
    choice = plan_placement(wanted, int(gigabytes * GB), machine)
    assert (choice.mode, choice.sharded) == (mode, shared)
    assert why in choice.reason


def test_images_that_fit_on_no_device_are_refused_when_asked_for():
    with pytest.raises(UserError, match=r"data\.cache=device: 8\.10 GB .* raise data\.device_gb"):
        plan_placement("device", int(8.1 * GB), GPU)


def _mesh(devices):
    config = configs.load("default", {"mesh.data": devices})
    return sharding.make_mesh(config.mesh, 8)


@pytest.mark.parametrize(("devices", "shared"), [(1, False), (8, False), (8, True)])
def test_a_step_sees_the_images_of_its_batch(records, devices, shared):
    mesh = _mesh(devices)
    images = data_placement.put_on_devices(records, mesh, sharded=shared)
    assert images.sharding.spec == (PartitionSpec("data") if shared else PartitionSpec())
    assert images.shape[0] == (64 if shared else 60)  # a multiple of the devices that share
    look = jax.jit(
        lambda batch: lookup_images(batch, mesh, images.sharding),
        in_shardings=(batch_shardings(mesh, images.sharding),),
    )
    batches = Batches(records, ROWS, 8, training=True, seed=3)
    prefetcher = DevicePrefetcher(batches, mesh, 2, 9, device_images=images)
    for step, batch in enumerate(prefetcher, 2):
        expected = batches.batch(step)
        np.testing.assert_array_equal(look(batch), expected.pop("image"))
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name], value)
            assert batch[name].dtype == value.dtype
    assert step == 8


def test_batches_of_several_steps_come_as_one(records):
    mesh = _mesh(8)
    images = data_placement.put_on_devices(records, mesh, sharded=False)
    batches = Batches(records, ROWS, 8, training=True, seed=3)
    first, second, third = DevicePrefetcher(
        batches, mesh, 4, 9, device_images=images, counts=[3, 1, 1]
    )
    for place, step in enumerate((4, 5, 6)):
        np.testing.assert_array_equal(first["index"][place], batches.indices(step))
    np.testing.assert_array_equal(second["index"], batches.indices(7))
    np.testing.assert_array_equal(third["label"], batches.batch(8)["label"])


@pytest.mark.parametrize("cache", ["none", "host"])
def test_several_steps_a_call_need_the_device(cache):
    changes = {"train.steps_per_call": 4, "data.cache": cache}
    with pytest.raises(UserError, match=r"steps_per_call=4: above 1 needs data\.cache=device"):
        configs.load("default", changes)


def test_several_steps_a_call_say_what_auto_chose(records):
    config = configs.load("default", {"train.steps_per_call": 4})
    with pytest.raises(UserError, match=r"data\.cache=auto is host here .*; set data\.cache to"):
        data_placement.place_dataset(config, records, _mesh(1))


def test_auto_goes_on_without_a_cache_that_cannot_be_written(records, monkeypatch):
    def refuse(records):
        raise UserError("data.cache_dir: full")

    monkeypatch.setattr(image_store, "decode", refuse)
    found = data_placement.place_dataset(configs.load("default"), records, _mesh(1))
    assert found.mode == "none"
    with pytest.raises(UserError, match="full"):
        data_placement.place_dataset(
            configs.load("default", {"data.cache": "host"}), records, _mesh(1)
        )
