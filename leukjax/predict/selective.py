"""The confidence from which on runs answer, chosen on their validation predictions."""

from collections.abc import Sequence

import numpy as np

from leukjax.errors import UserError
from leukjax.metrics import calibration, selective
from leukjax.metrics.predictions import Predictions, mean
from leukjax.predict.predictor import Model
from leukjax.rundir import RunDir


def choose(models: Sequence[Model], max_error: float) -> selective.Threshold:
    """`abstain.threshold` for the mean of these models, as they answer here.

    Raises:
      UserError: their validation parts differ (an image of one may have trained another), they
        look at several views (validation was looked at plainly), or no threshold will do.
    """
    if any(model.tta for model in models):
        raise UserError(
            "--max_error: is chosen on validation predictions, which were made without --tta; "
            "leave one of them out"
        )
    tables = [_validation(model) for model in models]
    first = tables[0]
    for model, table in zip(models, tables, strict=True):
        if not _same_images(table, first):
            raise UserError(
                f"--max_error: {model.workdir} and {models[0].workdir} were validated on different "
                "images; give runs of one split"
            )
    probabilities = mean(
        [_as_answered(model, table) for model, table in zip(models, tables, strict=True)]
    )
    return selective.threshold(first.labels, probabilities, first.group, max_error)


def _validation(model: Model) -> Predictions:
    table = RunDir(model.workdir).predictions("val")
    if table.classes != model.classes:
        raise UserError(f"{model.workdir}/predictions/val.csv: has other classes than the model")
    return table


def _same_images(a: Predictions, b: Predictions) -> bool:
    return np.array_equal(a.id, b.id) and np.array_equal(a.labels, b.labels)


def _as_answered(model: Model, table: Predictions) -> np.ndarray:
    if model.temperature == 1.0:
        return table.probabilities
    return calibration.rescale(table.probabilities, model.temperature)
