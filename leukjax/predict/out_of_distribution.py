"""Out-of-distribution score: how far an image is from the training images, in feature space."""

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
from leukjax.predict.member import Member
from leukjax.predict.predictor import Predictor
from leukjax.rundir import UNLIKENESS, RunDir

QUANTILE = 0.99  # of the validation images are within the limit


@dataclasses.dataclass(frozen=True)
class FeatureDistance:
    """The Mahalanobis distance to the nearest class (Lee et al. 2018, NeurIPS, equation 2).

    Attributes:
      step: of the checkpoint whose features these are.
      means: of the training images of each class.
      whitening: inverse square root of the covariance within classes, with the shrinkage of Ledoit
        & Wolf (2004); after it distances are Euclidean.
      limit: distance within which 99 % of the validation images are.
    """

    step: int
    means: Float[np.ndarray, "c d"]
    whitening: Float[np.ndarray, "d d"]
    limit: float

    def score(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Returns distances in units of the limit: above 1 an image is unlike those of training."""
        return self._distance(features) / self.limit

    def _distance(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        white, means = features @ self.whitening, self.means @ self.whitening
        return np.linalg.norm(white[:, None] - means, axis=2).min(axis=1)


def fit(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    validation: Float[np.ndarray, "m d"],
    step: int = 0,
) -> FeatureDistance:
    """Fits means and covariance to training features, and the limit to validation features.

    The limit is not taken from training images: a model has seen them, and places them closer.
    """
    present = np.unique(labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in present])
    centred = features - means[np.searchsorted(present, labels)]
    covariance, _ = ledoit_wolf(centred.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    # Features that are always 0 have no variance at all where the shrinkage is 0.
    floor = max(values[-1], np.finfo(np.float32).tiny) * 1e-6
    whitening = vectors / np.sqrt(np.maximum(values, floor))
    unscaled = FeatureDistance(step, means, whitening, 1.0)
    limit = float(np.quantile(unscaled._distance(validation), QUANTILE))
    return dataclasses.replace(unscaled, limit=max(limit, float(np.finfo(np.float32).tiny)))


def of_run(member: Member, overrides: Sequence[tuple[str, Any]] = ()) -> FeatureDistance:
    """Returns the distance of a run from ``unlikeness.npz``, which is made the first time.

    Making it needs the training data: one pass over the training and validation images.

    Args:
      member: the run.
      overrides: where the data are now, for instance ``data.root``.

    Raises:
      UserError: the model sows no features; or the file has to be made, and the data are missing
        or have changed.
    """
    member.require_features()
    path = member.workdir / UNLIKENESS
    if (kept := read(member)) is not None:
        return kept
    run = RunDir(member.workdir)
    try:
        records = datasets.prepare(run.config_with_data(overrides).data)
        run.check_same_data(
            records_sha256=records.checksum, classes=records.classes, image_size=records.image_size
        )
    except UserError as error:
        raise UserError(
            f"{path}: does not exist yet, and making it needs the training data: {error}"
        ) from error
    split = run.split()
    parts = np.array([split.get(name, ("",) * 4)[3] for name in records.manifest.id.tolist()])
    rows = {name: np.flatnonzero(parts == name) for name in ("train", "val")}
    if not all(map(len, rows.values())):
        raise UserError(f"{member.workdir}/split.csv: has no training or no validation image")
    logging.info("%s: computing features of the training and validation images, once", path)
    features = {name: _features(member, records, rows[name]) for name in rows}
    labels = records.manifest.label[rows["train"]]
    distance = fit(features["train"], labels, features["val"], member.step)
    data = io.BytesIO()
    np.savez(data, **dataclasses.asdict(distance))
    run.write(UNLIKENESS, data.getvalue())
    return distance


def read(member: Member) -> FeatureDistance | None:
    """Returns what ``unlikeness.npz`` holds; None if there is no such file for this step.

    Raises:
      UserError: a damaged file.
    """
    width = member.feature_width
    if not width:  # a model that sows no features
        return None
    largest = {
        "step": (),
        "means": (len(member.classes), width),
        "whitening": (width, width),
        "limit": (),
    }
    values = RunDir(member.workdir).arrays(UNLIKENESS, largest)
    if values is None:
        return None
    means, whitening = values["means"], values["whitening"]
    if not len(means) or means.shape[1] != width or whitening.shape != (width, width):
        raise UserError(f"{member.workdir / UNLIKENESS}: is of another model; remove it")
    if not values["limit"] > 0:
        raise UserError(f"{member.workdir / UNLIKENESS}: its limit is not above 0; remove it")
    step, limit = int(values["step"]), float(values["limit"])
    return FeatureDistance(step, means, whitening, limit) if step == member.step else None


def read_all(predictor: Predictor) -> list[FeatureDistance]:
    """Returns the distances of all members; none unless every run has its file."""
    distances = []
    for member in predictor.members:
        try:
            distance = read(member)
        except UserError as error:
            logging.warning("%s; out-of-distribution scores are left out", error)
            return []
        if distance is None:
            return []
        distances.append(distance)
    return distances


def _features(
    member: Member, records: data_records.Records, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    starts = range(0, len(rows), member.batch_size)
    parts = [rows[start : start + member.batch_size] for start in starts]
    return np.concatenate([member.outputs(records.images(part)).features for part in parts])
