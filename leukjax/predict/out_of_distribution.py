"""How unlike its training images a model finds an image: a distance between features."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf

from leukjax.data import datasets
from leukjax.data import records as data_records
from leukjax.errors import UserError
from leukjax.predict.predictor import Model
from leukjax.rundir import UNLIKENESS, RunDir
from leukjax.storage import write_atomic

QUANTILE = 0.99  # of the validation images count as like those of training


@dataclasses.dataclass(frozen=True)
class Unlikeness:
    """The Mahalanobis distance to the nearest class (Lee et al. 2018, NeurIPS, equation 2).

    Attributes:
      step: of the model whose features these are.
      means: of each class' training images.
      whitening: distances are Euclidean behind it: the inverse square root of the covariance within
        classes, shrunk as Ledoit & Wolf (2004) have it.
      limit: distance that 99 % of the validation images stay below.
    """

    step: int
    means: Float[np.ndarray, "c d"]
    whitening: Float[np.ndarray, "d d"]
    limit: float

    def of(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Distances in units of the limit: above 1, an image is unlike those of training."""
        return self._distance(features) / self.limit

    def _distance(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        white, means = features @ self.whitening, self.means @ self.whitening
        return np.linalg.norm(white[:, None] - means, axis=2).min(axis=1)


def fit(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    validation: Float[np.ndarray, "m d"],
    step: int = 0,
) -> Unlikeness:
    """Means and covariance from training features, the limit from validation features.

    The limit is not taken from training images: a model has seen them, and puts them closer.
    """
    present = np.unique(labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in present])
    centred = features - means[np.searchsorted(present, labels)]
    covariance, _ = ledoit_wolf(centred.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    # Features that are always 0 have no spread at all where the shrinkage is nil.
    floor = max(values[-1], np.finfo(np.float32).tiny) * 1e-6
    whitening = vectors / np.sqrt(np.maximum(values, floor))
    found = Unlikeness(step, means, whitening, 1.0)
    limit = float(np.quantile(found._distance(validation), QUANTILE))
    return dataclasses.replace(found, limit=max(limit, float(np.finfo(np.float32).tiny)))


def of_run(model: Model, overrides: Sequence[tuple[str, Any]] = ()) -> Unlikeness:
    """The run's own, from ``unlikeness.npz``; made and kept there the first time.

    Making it takes the data of the training: one pass over its training and validation images.

    Args:
      model: the run.
      overrides: where the data are, as ``data.root``.

    Raises:
      UserError: it has to be made, and the data are not at hand or are others now.
    """
    path = model.workdir / UNLIKENESS
    if (found := kept(model)) is not None:
        return found
    run = RunDir(model.workdir)
    try:
        records = datasets.prepare(run.config_with_data(overrides).data)
        run.check_same_data(
            records_sha256=records.checksum, classes=records.classes, image_size=records.image_size
        )
    except UserError as error:
        raise UserError(
            f"{path}: is not there yet, and making it takes the data of the training: {error}"
        ) from error
    split = run.split()
    of = np.array([split.get(name, ("",) * 4)[3] for name in records.manifest.id.tolist()])
    rows = {name: np.flatnonzero(of == name) for name in ("train", "val")}
    if not all(map(len, rows.values())):
        raise UserError(f"{model.workdir}/split.csv: names no training or no validation image")
    logging.info("%s: features of the training and validation images, once", path)
    features = {name: _features(model, records, rows[name]) for name in rows}
    labels = records.manifest.label[rows["train"]]
    found = fit(features["train"], labels, features["val"], model.step)
    data = io.BytesIO()
    np.savez(data, **dataclasses.asdict(found))
    write_atomic(path, data.getvalue())
    return found


def kept(model: Model) -> Unlikeness | None:
    """What ``unlikeness.npz`` holds; None where there is none of this step.

    Raises:
      UserError: a damaged file.
    """
    width = model.feature_width
    largest = {
        "step": (),
        "means": (len(model.classes), width),
        "whitening": (width, width),
        "limit": (),
    }
    values = RunDir(model.workdir).arrays(UNLIKENESS, largest)
    if values is None:
        return None
    means, whitening = values["means"], values["whitening"]
    if not len(means) or means.shape[1] != width or whitening.shape != (width, width):
        raise UserError(f"{model.workdir / UNLIKENESS}: is of another model; remove it")
    if not values["limit"] > 0:
        raise UserError(f"{model.workdir / UNLIKENESS}: its limit is not above 0; remove it")
    step, limit = int(values["step"]), float(values["limit"])
    return Unlikeness(step, means, whitening, limit) if step == model.step else None


def _features(
    model: Model, records: data_records.Records, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    starts = range(0, len(rows), model.batch_size)
    parts = [rows[start : start + model.batch_size] for start in starts]
    return np.concatenate([model.features(records.images(part)) for part in parts])
