"""Rows of compiled.csv: what each one compiles, and which exist already."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS, PLAIN = "leukjax", "plain Flax"
BOTH = (OURS, PLAIN)
CONFIGS = ("resnet50", "hybrid_vit", "cnn")

# The grid examines the fused forms, which are off by default.
BFLOAT16 = {"compute_dtype": "bfloat16", "model.fused": "on"}
# Comparable with plain Flax: 224 px, no augmentation, no dropout, statistics of the whole batch.
ALIKE = {
    "data.image_size": 224,
    "augment.flip": False,
    "augment.quarter_turns": False,
    "model.dropout": 0.0,
    **BFLOAT16,
}
SIZES = {"hybrid_vit": {"model.variant": "r26_s32"}}
_FLIPS = {"augment.flip": True, "augment.quarter_turns": True}
_LIGHT = {f"augment.{name}": 0.1 for name in ("zoom", "brightness", "contrast")}
_NORM_BATCH = {"model.norm_batch": 32}

# What a row changes: config fields, number of records in device memory, XLA flags.
LEVERS: dict[str, dict[str, Any]] = {
    "": {},
    "fused off": {"fields": {"model.fused": "off"}},
    "float32": {"fields": {"compute_dtype": "float32"}},
    "remat": {"fields": {"train.remat": True}},
    "accumulate 4": {"fields": {"train.accumulate": 4}},
    "sgd": {"fields": {"optimizer.name": "sgd"}},
    "norm_batch 32": {"fields": _NORM_BATCH},
    "flips and quarter turns": {"fields": _FLIPS},
    "turns by any angle, zoom, light": {"fields": {**_FLIPS, "augment.rotate": 180.0, **_LIGHT}},
    "10,000 images on the device": {"resident": 10_000},
    "fsdp": {"fields": {"mesh.fsdp": True}},
    "norm_batch 32, fsdp": {"fields": {**_NORM_BATCH, "mesh.fsdp": True}},
    "flag: combine all-reduces to 1 GB": {
        "flags": {"xla_gpu_all_reduce_combine_threshold_bytes": 1 << 30}
    },
    "flag: no Triton products": {"flags": {"xla_gpu_enable_triton_gemm": False}},
    "norm_batch 32, flag: pipelined all-reduces": {
        "fields": _NORM_BATCH,
        "flags": {"xla_gpu_enable_pipelined_all_reduce": True},
    },
}
_ON_EIGHT = ("fsdp", "norm_batch 32, fsdp", *(name for name in LEVERS if "all-reduces" in name))
_ON_ONE = tuple(name for name in LEVERS if name and name not in _ON_EIGHT)

# BiT-R152x4, 0.9 G parameters (Kolesnikov et al. 2020).
LARGE = (
    ("model.name", "bit"),
    ("model.norm", "group"),
    ("model.depth", 152),
    ("model.width", 256),
    ("train.remat", True),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Identifies one row of compiled.csv.

    Attributes:
      device: a name of `leukjax.compiler.targets`.
      count: number of devices.
      config: a shipped config, or a file.
      batch: images per device.
      lever: a name of `LEVERS`.
      fields: further config fields.
      alike: changed to be comparable with plain Flax (`ALIKE`), not as the config is.
    """

    device: str
    count: int
    contender: str
    config: str
    batch: int = 128
    lever: str = ""
    fields: tuple[tuple[str, Any], ...] = ()
    alike: bool = True

    @property
    def changed(self) -> str:
        """The fields that distinguish the row from others."""
        fields = [f"{name}={value}" for name, value in self.fields]
        return " ".join([*fields, *([] if self.alike else ["as configured"])])

    @property
    def label(self) -> str:
        """One line; ``--only`` is matched against it."""
        parts = [f"{self.device}:{self.count}", self.config, f"{self.batch} a device"]
        return ", ".join([*parts, self.contender, *filter(None, [self.lever, self.changed])])

    def request(self, programs: Path, known: list[list[str]]) -> dict[str, Any]:
        """Returns the input of compiled_row.py."""
        lever = LEVERS[self.lever]
        fields = {
            **((ALIKE | SIZES.get(self.config, {})) if self.alike else BFLOAT16),
            "train.batch_size": self.batch * self.count,
            **lever.get("fields", {}),
            **dict(self.fields),
        }
        return {
            "device": self.device,
            "count": self.count,
            "contender": self.contender,
            "config": self.config,
            "fields": fields,
            "resident": lever.get("resident", 0),
            "flags": lever.get("flags", {}),
            "known": known,
            "programs": str(programs),
        }


def grid() -> list[Row]:
    """Returns all rows, the most important first; each takes minutes on GPU, longer on TPU."""
    rows = [Row("h100", 1, name, config) for config in CONFIGS for name in BOTH]
    rows += [Row(device, 1, name, "resnet50") for device in ("v5e", "v6e") for name in BOTH]
    rows += [Row("h100", 1, name, "resnet50", batch) for batch in (32, 256) for name in BOTH]
    rows += [Row("a100", 1, name, config) for config in CONFIGS for name in BOTH]
    rows += [Row("v5e", 1, name, config) for config in ("cnn", "hybrid_vit") for name in BOTH]
    rows += [Row("h100", 8, name, "resnet50") for name in BOTH]
    rows += [Row("h100", 1, OURS, "resnet50", lever=lever) for lever in _ON_ONE]
    for config in ("hybrid_vit", "cnn"):
        levers = ("fused off", "10,000 images on the device")
        rows += [Row("h100", 1, OURS, config, lever=lever) for lever in levers]
    rows += [Row("h100", 1, OURS, "hybrid_vit", lever="flag: no Triton products")]
    rows += [Row("h100", count, OURS, "resnet50", lever="norm_batch 32") for count in (8, 64, 256)]
    rows += [Row("h100", 8, OURS, "resnet50", lever=lever) for lever in _ON_EIGHT]
    rows += [Row("h100", count, OURS, "resnet50") for count in (64, 256)]
    rows += [Row("h100", 8, OURS, "hybrid_vit", 32, lever) for lever in ("", "fsdp")]
    rows += [Row("h100", 8, OURS, "resnet50", 8, lever, LARGE) for lever in ("", "fsdp")]
    rows += [Row("v5e", 8, OURS, "resnet50", lever=lever) for lever in ("", "norm_batch 32")]
    for device in ("v5p", "v6e"):
        rows += [Row(device, 1, name, config) for config in CONFIGS for name in BOTH]
    rows += [Row("v5e", 1, OURS, config, lever="fused off") for config in CONFIGS]
    rows += [Row("v5e", 64, OURS, "resnet50", lever="norm_batch 32")]
    return list(dict.fromkeys(rows))


COLUMNS = ("device", "devices", "contender", "config", "batch", "lever", "fields")


def columns(row: Row) -> dict[str, Any]:
    """Returns the CSV columns that identify a row."""
    values = (row.device, row.count, row.contender, row.config, row.batch, row.lever, row.changed)
    return dict(zip(COLUMNS, values, strict=True))


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns the identifying columns of a CSV row as a tuple."""
    return tuple(str(row[name]) for name in COLUMNS)


def known(row: Row, table: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Returns digest, compiler and reader of the CSV rows that a row identifies."""
    name = key(columns(row))
    parts = ("program", "versions", "reader")
    return [[old[part] for part in parts] for old in table if key(old) == name]


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file; none if it does not exist."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
