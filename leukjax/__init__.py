"""leukjax trains, compares and applies classifiers of leukaemia cells in JAX.

    import leukjax as lj, optax

    data = lj.ImageFolder("cells/", subject=r"(patient_\\d+)")
    split = lj.split_by_group(data, seed=0)
    model = lj.create_model("resnet50", num_classes=data.num_classes)
    trainer = lj.Trainer(model, optimizer=optax.adamw(1e-3), augment=lj.Augment(flip=True))
    run = trainer.fit(split.train, split.val, workdir="runs/mine")
    print(run.evaluate(split.test))
    lj.load("runs/mine").predict(["cell.png"])

Importing leukjax has no side effects, and imports JAX only when it is needed. `fit` returns a
`Predictor`, whose `evaluate` returns an `Evaluation`; callbacks are given an `Event`.
"""

import importlib
import inspect
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from leukjax.compare.write_report import compare_runs
    from leukjax.config import load as load_config
    from leukjax.data import (
        Arrays,
        Crops,
        Dataset,
        ImageFolder,
        Npz,
        Parquet,
        Split,
        Subset,
        Table,
        list_datasets,
        register_dataset,
        split_by_group,
        split_given,
    )
    from leukjax.images.augment import Augment
    from leukjax.metrics.evaluation import Evaluation
    from leukjax.models.registry import create_model, list_models, register_model
    from leukjax.predict.predictor import Predictor, load
    from leukjax.probe.fit_probe import fit_probe
    from leukjax.training.optimizer_registry import register_optimizer
    from leukjax.training.run import Event
    from leukjax.training.state import TrainState
    from leukjax.training.trainer import Trainer

# Name -> module, and the name there if it is another.
_PUBLIC = {
    "Arrays": "leukjax.data",
    "Augment": "leukjax.images.augment",
    "Crops": "leukjax.data",
    "Dataset": "leukjax.data",
    "Evaluation": "leukjax.metrics.evaluation",
    "Event": "leukjax.training.run",
    "ImageFolder": "leukjax.data",
    "Npz": "leukjax.data",
    "Parquet": "leukjax.data",
    "Predictor": "leukjax.predict.predictor",
    "Split": "leukjax.data",
    "Subset": "leukjax.data",
    "Table": "leukjax.data",
    "TrainState": "leukjax.training.state",
    "Trainer": "leukjax.training.trainer",
    "compare_runs": "leukjax.compare.write_report",
    "create_model": "leukjax.models.registry",
    "fit_probe": "leukjax.probe.fit_probe",
    "list_datasets": "leukjax.data",
    "list_models": "leukjax.models.registry",
    "load": "leukjax.predict.predictor",
    "load_config": "leukjax.config:load",
    "register_dataset": "leukjax.data",
    "register_model": "leukjax.models.registry",
    "register_optimizer": "leukjax.training.optimizer_registry",
    "split_by_group": "leukjax.data",
    "split_given": "leukjax.data",
}

__all__ = [
    "Arrays",
    "Augment",
    "Crops",
    "Dataset",
    "Evaluation",
    "Event",
    "ImageFolder",
    "Npz",
    "Parquet",
    "Predictor",
    "Split",
    "Subset",
    "Table",
    "TrainState",
    "Trainer",
    "__version__",
    "compare_runs",
    "create_model",
    "fit_probe",
    "list_datasets",
    "list_models",
    "load",
    "load_config",
    "register_dataset",
    "register_model",
    "register_optimizer",
    "split_by_group",
    "split_given",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'leukjax' has no attribute {name!r}")
    module, _, other = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), other or name)
    if inspect.isfunction(value):  # commands use the function as it is: they have flags
        value = importlib.import_module("leukjax.errors").names_arguments()(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
