"""What an image costs at one size of something; run by scaling.py."""

import time

import jax
from harness import serve
from measured import cpu_seconds, memory, processor, versions
from synthetic import Synthetic

from leukjax import config, sharding
from leukjax.data import duplicates, image_store, split
from leukjax.data.loader import Batches
from leukjax.training import data_placement
from leukjax.training.prefetch import DevicePrefetcher
from leukjax.training.trainer import Trainer


def prepare(spec):
    """Records of the spec's number and size, and a training step with what feeds it."""
    began = time.perf_counter()
    empty = memory()
    records = Synthetic(spec["folder"], spec["records"], spec["image_size"])
    opened = memory()
    fields = {
        "train.batch_size": spec["batch"],
        "data.image_size": spec["image_size"],
        "data.mean": "0.5,0.5,0.5",
        "data.std": "0.25,0.25,0.25",
        "model.width": 8,
        "model.norm_batch": spec.get("norm_batch", 0),
    }
    settings = config.load("cnn", fields)
    parts = split.make_split(records.manifest, "subject", 0, 5, 0)
    split_at = time.perf_counter()
    rows = parts.rows("train")
    duplicates.near_duplicates(records.manifest)
    duplicates_at = time.perf_counter()

    mesh = sharding.make_mesh(settings.mesh, spec["batch"])
    source = image_store.decode(records) if spec["mode"] == "host" else records
    pixels = (
        data_placement.put_on_devices(records, mesh, sharded=False)
        if spec["mode"] == "device"
        else None
    )
    batches = Batches(source, rows, spec["batch"], training=True)
    # The cnn needs 32 px; below, the prefetch alone is measured.
    step = state = None
    if spec["image_size"] >= 32:
        trainer = Trainer.from_config(settings, num_classes=2, mesh=mesh)
        step = trainer.compiled(
            image_sharding=None if pixels is None else pixels.sharding
        ).train_steps[1]
        state = trainer.init_state(steps_per_epoch=batches.steps_per_epoch)
    feed = iter(DevicePrefetcher(batches, mesh, 0, 10**9, device_images=pixels))
    carried = {"state": state}

    def some(seconds):
        before, used, start, count = memory(), cpu_seconds(), time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            batch = next(feed)
            if step is not None:
                carried["state"], metrics = step(carried["state"], batch)
                jax.block_until_ready(metrics)
            count += spec["batch"]
        passed = time.perf_counter() - start
        return {
            "microseconds_an_image": 1e6 * passed / count,
            "core_microseconds_an_image": 1e6 * (cpu_seconds() - used) / count,
            "images_per_second": count / passed,
            "growth_megabytes": (memory()["anonymous"] - before["anonymous"]) / 1e6,
        }

    some(1.0)
    about = {
        "device": processor(),
        "versions": versions("jax", "grain"),
        "manifest_bytes_a_record": (opened["anonymous"] - empty["anonymous"]) / spec["records"],
        "split_seconds": split_at - began,
        "duplicates_seconds": duplicates_at - split_at,
        "megabytes": memory()["anonymous"] / 1e6,
    }
    return about, lambda: some(spec["seconds"])


if __name__ == "__main__":
    serve(prepare)
