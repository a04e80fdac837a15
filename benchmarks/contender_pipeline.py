"""One way of leukjax from stored image to augmented batch; run by input_pipeline.py."""

import time

import jax
import numpy as np
from harness import serve
from measured import cpu_seconds, processor, versions
from synthetic import Synthetic

from leukjax import config, sharding
from leukjax.data import image_store
from leukjax.data.loader import Batches
from leukjax.images.augment import augment
from leukjax.images.normalize import standardize, to_float
from leukjax.training import data_placement
from leukjax.training.data_placement import lookup_images
from leukjax.training.hyperparameters import augment_options
from leukjax.training.prefetch import DevicePrefetcher


def prepare(spec):
    settings = config.load("cnn", {"train.batch_size": spec["batch"], "mesh.data": 1})
    settings.augment.update(spec["augment"])
    options = augment_options(settings, "black")
    mesh = sharding.make_mesh(settings.mesh, spec["batch"])
    records = Synthetic(spec["folder"], spec["images"], spec["image_size"])
    mode, pixels = spec["mode"], None
    source = image_store.decode(records) if mode == "host" else records
    if mode == "device":
        pixels = data_placement.put_on_devices(records, mesh, sharded=False)
    place = None if pixels is None else pixels.sharding

    @jax.jit
    def transform(batch, step):
        images = to_float(lookup_images(batch, mesh, place))
        positions = np.arange(spec["batch"], dtype=np.int32)
        key = jax.random.fold_in(jax.random.key(0), step)
        return standardize(augment(key, images, positions, options), np.full(3, 0.5), np.full(3, 1))

    batches = Batches(source, np.arange(len(records)), spec["batch"], training=True)
    feed = iter(DevicePrefetcher(batches, mesh, 0, 10**9, device_images=pixels))
    work = transform if spec["augmented"] else (lambda batch, step: batch)
    place_of = {"step": 0}

    def some(seconds):
        began, used, count, result = time.perf_counter(), cpu_seconds(), 0, None
        while time.perf_counter() - began < seconds:
            result = work(next(feed), place_of["step"])
            place_of["step"] += 1
            count += spec["batch"]
            if count % (8 * spec["batch"]) == 0:
                jax.block_until_ready(result)
        jax.block_until_ready(result)
        return {
            "images_per_second": count / (time.perf_counter() - began),
            "images_per_core_second": count / max(1e-3, cpu_seconds() - used),
        }

    some(1.0)
    about = {"device": processor(), "versions": versions("jax", "grain", "array_record")}
    return about, lambda: some(spec["seconds"])


if __name__ == "__main__":
    serve(prepare)
