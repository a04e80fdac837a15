"""From images to batches: data sets, splits, prepared records, loaders. No JAX.

The only package that imports Grain and TFDS. The names of `__all__` are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leukjax.data.dataset import Dataset, FileDataset, Subset
    from leukjax.data.datasets import list_datasets, make_dataset, register_dataset
    from leukjax.data.datasets.arrays import Arrays
    from leukjax.data.datasets.crops import Crops
    from leukjax.data.datasets.image_folder import ImageFolder
    from leukjax.data.datasets.npz import Npz
    from leukjax.data.datasets.parquet import Parquet
    from leukjax.data.datasets.table import Table
    from leukjax.data.split import Split, split_by_group, split_given

_MODULES = {
    "Arrays": "datasets.arrays",
    "Crops": "datasets.crops",
    "Dataset": "dataset",
    "FileDataset": "dataset",
    "ImageFolder": "datasets.image_folder",
    "Npz": "datasets.npz",
    "Parquet": "datasets.parquet",
    "Split": "split",
    "Subset": "dataset",
    "Table": "datasets.table",
    "list_datasets": "datasets",
    "make_dataset": "datasets",
    "register_dataset": "datasets",
    "split_by_group": "split",
    "split_given": "split",
}

__all__ = [
    "Arrays",
    "Crops",
    "Dataset",
    "FileDataset",
    "ImageFolder",
    "Npz",
    "Parquet",
    "Split",
    "Subset",
    "Table",
    "list_datasets",
    "make_dataset",
    "register_dataset",
    "split_by_group",
    "split_given",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
