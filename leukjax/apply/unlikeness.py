"""How unlike its training images a model finds an image: a distance between features."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf

from leukjax.apply.model import Model
from leukjax.data import records as data_records
from leukjax.errors import UserError
from leukjax.storage import read_csv, write_atomic

FILE = "unlikeness.npz"
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


def of_run(model: Model) -> Unlikeness:
    """The run's own, from ``unlikeness.npz``; made and kept there the first time.

    Making it takes the data of the training: one pass over its training and validation images.

    Raises:
      UserError: it has to be made, and the data are not at hand or are others now.
    """
    path = model.workdir / FILE
    if (found := kept(model)) is not None:
        return found
    try:
        records = data_records.prepare(model.config.data)
    except UserError as error:
        raise UserError(
            f"{path}: is not there yet, and making it takes the data of the training: {error}"
        ) from error
    expected = json.loads((model.workdir / "data.json").read_text())["records_sha256"]
    if records.checksum != expected:
        raise UserError(
            f"{path}: is not there yet, and {model.config.data.root or 'the data'} is no longer "
            "what the run was trained on; bring that back"
        )
    part = _parts(model.workdir / "split.csv")
    of = np.array([part[name] for name in records.manifest.id.tolist()])
    logging.info("%s: features of the training and validation images, once", path)
    rows = {name: np.flatnonzero(of == name) for name in ("train", "val")}
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
    path = model.workdir / FILE
    found = _read(path) if path.exists() else None
    return found if found is not None and found.step == model.step else None


def _features(
    model: Model, records: data_records.Records, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    starts = range(0, len(rows), model.batch_size)
    parts = [rows[start : start + model.batch_size] for start in starts]
    return np.concatenate([model.features(records.images(part)) for part in parts])


def _parts(path: Path) -> dict[str, str]:
    """The part of each image of a run, by id."""
    return {row["id"]: row["part"] for row in read_csv(path)[1]}


def _read(path: Path) -> Unlikeness:
    try:
        with np.load(path) as stored:
            values = {field.name: stored[field.name] for field in dataclasses.fields(Unlikeness)}
    except Exception as error:  # zip, header and arrays each have their own
        raise UserError(f"{path}: cannot be read ({error}); remove it") from error
    return Unlikeness(
        int(values["step"]), values["means"], values["whitening"], float(values["limit"])
    )
