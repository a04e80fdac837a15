"""A trained run at work: images in, probabilities out; no records, no split, no data needed."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from leukjax import sharding
from leukjax.data import preprocess
from leukjax.data.datasets import cnmc
from leukjax.errors import UserError
from leukjax.images.normalize import standardize, to_float
from leukjax.metrics.predictions import mean
from leukjax.predict import inputs
from leukjax.predict.inputs import Image, PathLike
from leukjax.predict.restore import Restored, restore, temperature
from leukjax.predict.test_time_augmentation import dihedral

NOT_FINITE = "the network gives no finite probability"


class Answers(NamedTuple):
    """What a model says of n images: probabilities, and the features that they rest on."""

    probabilities: Float32[np.ndarray, "n c"]
    features: Float32[np.ndarray, "n d"]  # before the head, of the image as it is


@dataclasses.dataclass(frozen=True, eq=False)
class Model(Restored):
    """One run at one step. Made by `load`.

    Attributes:
      workdir, step, config, preprocessing, module, variables: as in `Restored`;
        ``module.apply(variables, normalised images, train=False)`` gives logits.
      batch_size: images that go to the devices at once; fewer are padded to as many, so that one
        compilation serves all.
      tta: whether probabilities are means over the eight views of `views.dihedral`.
      temperature: logits are divided by it before the softmax; 1 = as trained.
    """

    batch_size: int
    tta: bool = False
    temperature: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return tuple(self.preprocessing["classes"])

    @property
    def positive(self) -> str:
        """The class that precision and recall speak of; "" above two classes."""
        return self.preprocessing["positive"]

    @property
    def image_size(self) -> int:
        """Pixels a side of what the network sees."""
        return self.preprocessing["image_size"]

    @property
    def members(self) -> tuple["Model", ...]:
        """This model, as an ensemble of one."""
        return (self,)

    @property
    def recipe(self) -> tuple[Any, ...]:
        """What `preprocess` depends on: models of equal recipes see the same pixels."""
        names = ("data", "image_size", "crop", "denoise", "background")
        return tuple(self.preprocessing[name] for name in names)

    def preprocess(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The pixels of an image of any size, prepared as the run prepared its own.

        Models of C-NMC cut the 600 px images of its final phase to the 450 px of the others.
        """
        data, size, crop, denoise, background = self.recipe
        if data == "cnmc" and rgb.shape[:2] == (cnmc.FINAL_SIDE,) * 2:
            rgb = preprocess.window(rgb, cnmc.SIDE)
        return preprocess.process(rgb, size, crop, denoise, background)

    def normalize(self, images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s 3"]:
        """From prepared pixels to the numbers that the network sees."""
        mean, std = self._statistics
        return standardize(to_float(jnp.asarray(images)), jnp.asarray(mean), jnp.asarray(std))

    def logits(self, normalized: Float[Array, "n s s 3"]) -> Float32[Array, "n c"]:
        """Logits of normalised images; differentiable, and not scaled by the temperature."""
        logits: Any = self.module.apply(self.variables, normalized, train=False)
        return logits.astype(jnp.float32)

    def predict(
        self, images: Iterable[Image] | UInt8[np.ndarray, "n s s 3"]
    ) -> Float32[np.ndarray, "n c"]:
        """Probabilities, a row an image.

        Args:
          images: files and arrays uint8[h, w, 3] of any size, which are prepared as the run's own
            images were; or one array uint8[n, S, S, 3] of images that are prepared already.

        Raises:
          UserError: a file that cannot be read or is no image (`BadImage`), or an array of another
            kind; or the network gives no finite probability.
        """
        prepared = inputs.prepared(images, self.preprocess, self.image_size)
        probabilities = self.answers(prepared).probabilities
        bad = ~np.isfinite(probabilities).all(axis=1)
        if bad.any():
            raise UserError(
                f"{self.workdir}: {NOT_FINITE} for {bad.sum():,} of {len(bad):,} images; "
                "its checkpoint is damaged: copy the run again, or train again"
            )
        return probabilities

    @functools.cached_property
    def feature_width(self) -> int:
        """Numbers of a row of `features`."""
        shape = (1, self.image_size, self.image_size, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        look = functools.partial(self.module.apply, train=False, mutable=["intermediates"])
        _, seen = jax.eval_shape(look, self.variables, images)
        return int(seen["intermediates"]["pooled"][0].shape[-1])

    def features(self, images: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, "n d"]:
        """What stands before the head (``pooled``), a row for each prepared image."""
        return self.answers(images).features

    def answers(self, images: UInt8[np.ndarray, "n s s 3"]) -> Answers:
        """Probabilities and features of any number of prepared images."""
        starts = range(0, max(1, len(images)), self.batch_size)
        # All are dispatched before the first is read, so that the device never waits.
        pending = [self.submit(images[start : start + self.batch_size]) for start in starts]
        parts = [result() for result in pending]
        return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def submit(self, images: UInt8[np.ndarray, "n s s 3"]) -> Callable[[], Answers]:
        """Start on up to `batch_size` prepared images; calling the result waits for the answers."""
        count, size = len(images), self.image_size
        batch = np.zeros((self.batch_size, size, size, 3), np.uint8)
        batch[:count] = images
        variables, device = self.on_devices(batch)
        results = _answer(
            self.module, variables, self._statistics, self.temperature, device, self.tta
        )
        return lambda: Answers(*(value[:count] for value in jax.device_get(results)))

    def on_devices(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """The variables on every device, and arrays of `batch_size` rows shared out among them."""
        mesh, variables = self._placed
        return variables, *(sharding.put(a, sharding.batch_sharding(mesh)) for a in arrays)

    @functools.cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        values = (self.preprocessing["mean"], self.preprocessing["std"])
        return np.asarray(values[0], np.float32), np.asarray(values[1], np.float32)

    @functools.cached_property
    def _placed(self) -> tuple[Mesh, Any]:
        """Every device of this process takes a share of each batch."""
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        return mesh, jax.device_put(self.variables, sharding.replicated(mesh))


@functools.partial(jax.jit, static_argnames=("module", "tta"))
def _answer(
    module: nn.Module,
    variables: Any,
    statistics: tuple[Float32[Array, "3"], Float32[Array, "3"]],
    temperature: float,
    images: UInt8[Array, "n s s 3"],
    tta: bool,
) -> tuple[Float32[Array, "n c"], Float32[Array, "n d"]]:
    """Compiled once for all runs of an architecture: their values are arguments."""

    def look(images: Array) -> tuple[Array, Array]:
        logits, seen = module.apply(
            variables,
            standardize(to_float(images), *statistics),
            train=False,
            mutable=["intermediates"],
        )
        logits = jnp.asarray(logits, jnp.float32)
        return jax.nn.softmax(logits / temperature), seen["intermediates"]["pooled"][0]

    if not tta:
        return look(images)
    probabilities, features = jax.lax.map(look, dihedral(images))
    return probabilities.mean(axis=0), features[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Several runs that answer together: the mean of their probabilities. Made by `load`."""

    members: tuple[Model, ...]

    def __post_init__(self) -> None:
        """Raises UserError where the class lists differ."""
        first, *others = self.members
        for other in others:
            if other.classes != first.classes:
                raise UserError(
                    f"{other.workdir}: tells apart {', '.join(other.classes)}, and {first.workdir} "
                    f"{', '.join(first.classes)}; an ensemble needs the same classes"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.members[0].classes

    @property
    def positive(self) -> str:
        """As in `Model`."""
        return self.members[0].positive

    def predict(self, images: Iterable[Image]) -> Float[np.ndarray, "n c"]:
        """Probabilities, a row an image; images as in `Model.predict`, none of them prepared."""
        decoded = [inputs.decoded(image) for image in images]
        return mean([member.predict(decoded) for member in self.members])


def load(
    runs: PathLike | Sequence[PathLike],
    step: int | str = "best",
    *,
    tta: bool = False,
    calibrated: bool = False,
    batch_size: int = 32,
) -> Model | Ensemble:
    """A trained run, ready to predict; or several, as an ensemble.

    Args:
      runs: a work directory, or a list of them.
      step: ``best`` (on validation), ``latest``, or a number of optimiser steps.
      tta: average over the eight turned and mirrored views of each image.
      calibrated: divide logits by the temperature that fits the run's validation predictions.
      batch_size: images on the devices at once; raised to a multiple of their number.

    Raises:
      UserError: no run there, none with a finished checkpoint, a damaged one, or class lists that
        differ.
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if not folders:
        raise UserError("no run is given; give the work directory of one")
    devices = jax.local_device_count()
    batch_size = -(-batch_size // devices) * devices
    models = tuple(
        Model(
            **vars(restore(Path(folder), step)),
            batch_size=batch_size,
            tta=tta,
            temperature=temperature(Path(folder), step) if calibrated else 1.0,
        )
        for folder in folders
    )
    return models[0] if len(models) == 1 else Ensemble(models)
