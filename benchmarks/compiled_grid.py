"""The rows that compiled.py makes: which there are, which are there already."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS, PLAIN = "leukjax", "plain Flax"
CONFIGS = ("resnet50", "hybrid_vit", "cnn")

# The fused forms are what this grid examines; by default they are off.
BFLOAT16 = {"compute_dtype": "bfloat16", "model.fused": "on"}
# Like for like with plain Flax: nothing drawn at random. 224 px, the whole batch normalised.
ALIKE = {
    "data.image_size": 224,
    "augment.flip": False,
    "augment.quarter_turns": False,
    "model.dropout": 0.0,
    **BFLOAT16,
}
SIZES = {"hybrid_vit": {"model.variant": "r26_s32"}}

# What a row may change: fields of the config, parts of ours to do without, records that lie on the
# device (device mode), flags of the compiler.
LEVERS: dict[str, dict[str, Any]] = {
    "": {},
    "float32": {"fields": {"compute_dtype": "float32"}},
    "without folding": {"without": ["folding"]},
    "without own BatchNorm": {"without": ["own norm"]},
    "without own max pool": {"without": ["own pool"]},
    "without lean forms": {"without": ["lean"]},
    "with lean forms": {"without": ["layer by layer"]},
    "without lean norms": {"without": ["lean norms"]},
    "without lean max pool": {"without": ["lean pool"]},
    "without sums in one": {"without": ["one sum"]},
    "without lean transformer": {"without": ["lean transformer"]},
    "Pallas attention": {"without": ["attention by XLA"]},
    "without any of these": {"without": ["own norm", "own pool", "lean"]},
    "remat": {"fields": {"train.remat": True}},
    "accumulate 4": {"fields": {"train.accumulate": 4}},
    "sgd": {"fields": {"optimizer.name": "sgd"}},
    "norm_batch 32": {"fields": {"model.norm_batch": 32}},
    "flips and quarter turns": {"fields": {"augment.flip": True, "augment.quarter_turns": True}},
    "turns by any angle, zoom, light": {
        "fields": {
            "augment.flip": True,
            "augment.quarter_turns": True,
            "augment.rotate": 180.0,
            "augment.zoom": 0.1,
            "augment.brightness": 0.1,
            "augment.contrast": 0.1,
        }
    },
    "10,000 images on the device": {"resident": 10_000},
    "fsdp": {"fields": {"mesh.fsdp": True}},
    "norm_batch 32, fsdp": {"fields": {"model.norm_batch": 32, "mesh.fsdp": True}},
    "flag: combine all-reduces to 1 GB": {
        "flags": {"xla_gpu_all_reduce_combine_threshold_bytes": 1 << 30}
    },
    "flag: no Triton products": {"flags": {"xla_gpu_enable_triton_gemm": False}},
    "norm_batch 32, flag: pipelined all-reduces": {
        "fields": {"model.norm_batch": 32},
        "flags": {"xla_gpu_enable_pipelined_all_reduce": True},
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row of compiled.csv is of.

    Attributes:
      device: a name of `leukjax.compiler.targets`.
      count: of devices.
      config: a shipped config, or a file.
      batch: images a device.
      lever: a name of `LEVERS`.
      fields: further fields of the config.
      alike: as plain Flax has it (`ALIKE`), not as the config says.
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
        """Fields that differ from those of other rows, in words."""
        fields = [f"{name}={value}" for name, value in self.fields]
        return " ".join([*fields, *([] if self.alike else ["as configured"])])

    @property
    def label(self) -> str:
        """One line; ``--only`` looks for its expression here."""
        parts = [f"{self.device}:{self.count}", self.config, f"{self.batch} a device"]
        return ", ".join([*parts, self.contender, *filter(None, [self.lever, self.changed])])

    def request(self, programs: Path, known: list[list[str]]) -> dict[str, Any]:
        """For compiled_row.py."""
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
            "without": lever.get("without", []),
            "resident": lever.get("resident", 0),
            "flags": lever.get("flags", {}),
            "known": known,
            "programs": str(programs),
        }


def grid() -> list[Row]:
    """All rows, those that matter most first: minutes each on GPU, many on TPU."""
    rows = []
    both = (OURS, PLAIN)
    for config in CONFIGS:
        rows += [Row("h100", 1, name, config) for name in both]
    rows += [Row(device, 1, name, "resnet50") for device in ("v5e", "v6e") for name in both]
    rows += [Row("h100", 1, name, "resnet50", batch) for batch in (32, 256) for name in both]
    rows += [Row("a100", 1, name, config) for config in CONFIGS for name in both]
    for config in ("cnn", "hybrid_vit"):
        rows += [Row("v5e", 1, name, config) for name in both]
    rows += [Row("h100", 8, name, "resnet50") for name in both]
    rows += [Row("h100", 1, OURS, "resnet50", lever=lever) for lever in _ON_ONE]
    rows += [
        Row("h100", 1, OURS, config, lever=lever)
        for config in ("hybrid_vit", "cnn")
        for lever in (
            "without own BatchNorm",
            "without own max pool",
            *_LEAN,
            "10,000 images on the device",
        )
    ]
    rows += [
        Row("h100", 1, OURS, "hybrid_vit", lever=lever)
        for lever in (
            "without folding",
            "without lean transformer",
            "Pallas attention",
            "flag: no Triton products",
        )
    ]
    rows += [Row("h100", count, OURS, "resnet50", lever="norm_batch 32") for count in (8, 64, 256)]
    rows += [Row("h100", 8, OURS, "resnet50", lever=lever) for lever in _ON_EIGHT]
    rows += [Row("h100", count, OURS, "resnet50") for count in (64, 256)]
    rows += [Row("h100", 8, OURS, "hybrid_vit", 32, lever) for lever in ("", "fsdp")]
    rows += [Row("h100", 8, OURS, "resnet50", 8, lever, LARGE) for lever in ("", "fsdp")]
    rows += [Row("v5e", 8, OURS, "resnet50", lever=lever) for lever in ("", "norm_batch 32")]
    rows += [Row("v5e", 1, OURS, config, lever="with lean forms") for config in CONFIGS]
    for device in ("v5p", "v6e"):
        rows += [Row(device, 1, name, config) for config in CONFIGS for name in both]
    rows += [Row("v5e", 1, OURS, "resnet50", lever="without folding")]
    rows += [Row("v5e", 64, OURS, "resnet50", lever="norm_batch 32")]
    return list(dict.fromkeys(rows))


# BiT-R152x4, 0.9 G parameters (Kolesnikov et al. 2020).
LARGE = (
    ("model.name", "bit"),
    ("model.norm", "group"),
    ("model.depth", 152),
    ("model.width", 256),
    ("train.remat", True),
)
_LEAN = (
    "without lean forms",
    "without lean norms",
    "without lean max pool",
    "without sums in one",
)
_ON_ONE = (
    "without folding",
    "without own BatchNorm",
    "without own max pool",
    *_LEAN,
    "without any of these",
    "float32",
    "sgd",
    "remat",
    "accumulate 4",
    "norm_batch 32",
    "flips and quarter turns",
    "turns by any angle, zoom, light",
    "10,000 images on the device",
    "flag: no Triton products",
)
_ON_EIGHT = (
    "fsdp",
    "norm_batch 32, fsdp",
    "flag: combine all-reduces to 1 GB",
    "norm_batch 32, flag: pipelined all-reduces",
)


COLUMNS = ("device", "devices", "contender", "config", "batch", "lever", "fields")


def columns(row: Row) -> dict[str, Any]:
    """What tells a row of the CSV from others."""
    values = (row.device, row.count, row.contender, row.config, row.batch, row.lever, row.changed)
    return dict(zip(COLUMNS, values, strict=True))


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """The same of a row that was read."""
    return tuple(str(row[name]) for name in COLUMNS)


def known(row: Row, table: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Of rows of the same name in the table: their program's digest, the compiler, the reader."""
    name = key(columns(row))
    return [
        [old[part] for part in ("program", "versions", "reader")]
        for old in table
        if key(old) == name
    ]


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
