"""One trained network: restored from a work directory, placed on this machine's devices."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Shaped, UInt8
from ml_collections import ConfigDict

from leukjax import runtime, sharding
from leukjax.checkpoints import reader
from leukjax.data import preprocess
from leukjax.data.datasets import cnmc
from leukjax.errors import UserError
from leukjax.images.normalize import Normalization
from leukjax.images.stain import Stain
from leukjax.metrics import calibration
from leukjax.models.registry import model_from_fields
from leukjax.rundir import RunDir
from leukjax.weights import base
from leukjax.weights.lora import Lora, merge

T = TypeVar("T")


class Outputs(NamedTuple):
    """What one network computes for n images.

    Attributes:
      probabilities: mean over the views.
      features: the input of the classification head (``pooled``), for the image as it is.
      views: probabilities of each view: one, or the eight of `dihedral`.
    """

    probabilities: Float32[np.ndarray, "n c"]
    features: Float32[np.ndarray, "n d"]
    views: Float32[np.ndarray, "v n c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One run at one checkpoint. Made by `restore`; a `Predictor` has one or several.

    Attributes:
      workdir: the run's work directory.
      step: optimizer steps done.
      config: the config of the training, with this machine's own paths and settings.
      preprocessing: content of ``preprocessing.json``.
      module: made for this machine: bfloat16 or float32 as `compute_dtype` says.
      variables: ``params`` and ``batch_stats``;
        ``module.apply(variables, normalized images, train=False)`` returns logits.
      batch_size: images per dispatch, a multiple of the number of devices. Smaller batches are
        padded, so that one compilation serves all.
      temperature: logits are divided by it before the softmax; 1 = as trained.
    """

    workdir: Path
    step: int
    config: ConfigDict
    preprocessing: dict[str, Any]
    module: nn.Module
    variables: dict[str, Any]
    batch_size: int
    temperature: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return tuple(self.preprocessing["classes"])

    @property
    def positive(self) -> str:
        """The positive class of precision and recall; "" above two classes."""
        return self.preprocessing["positive"]

    @property
    def image_size(self) -> int:
        """Side of a prepared image, in pixels."""
        return self.preprocessing["image_size"]

    @property
    def recipe(self) -> tuple[Any, ...]:
        """All that `preprocess` depends on: members with equal recipes share prepared images."""
        names = ("data", "image_size", "crop", "denoise", "background")
        return tuple(self.preprocessing[name] for name in names)

    def preprocess(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """Prepares an image of any size as the run prepared its training images.

        Models of C-NMC crop the 600 px images of its final phase to the 450 px of the others.
        """
        data, size, crop, denoise, background = self.recipe
        if data == "cnmc" and rgb.shape[:2] == (cnmc.FINAL_SIDE,) * 2:
            rgb = preprocess.window(rgb, cnmc.SIDE)
        return preprocess.process(rgb, size, crop, denoise, background)

    def normalize(self, images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s 3"]:
        """Turns prepared images into the input of the network."""
        return self.normalization(jnp.asarray(images))

    def logits(self, normalized: Float[Array, "n s s 3"]) -> Float32[Array, "n c"]:
        """Returns logits of normalized images; differentiable, not divided by the temperature."""
        logits: Any = self.module.apply(self.variables, normalized, train=False)
        return logits.astype(jnp.float32)

    @functools.cached_property
    def feature_width(self) -> int:
        """Number of features per image."""
        shape = (1, self.image_size, self.image_size, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        apply = functools.partial(self.module.apply, train=False, mutable=["intermediates"])
        _, sown = jax.eval_shape(apply, self.variables, images)
        pooled = sown.get("intermediates", {}).get("pooled")
        return int(pooled[0].shape[-1]) if pooled else 0

    def require_features(self) -> None:
        """Raises UserError if the model sows no features."""
        if not self.feature_width:
            raise UserError(
                f"{self.workdir}: its model sows no features; add "
                "self.sow('intermediates', 'pooled', x) before its head"
            )

    def outputs(self, images: UInt8[np.ndarray, "n s s 3"], *, tta: bool = False) -> Outputs:
        """Computes the outputs for any number of prepared images, batch by batch.

        Args:
          images: prepared images.
          tta: use the eight views of `dihedral`.
        """
        starts = range(0, max(1, len(images)), self.batch_size)
        batches = (images[start : start + self.batch_size] for start in starts)
        parts = list(overlapped(self.submit(batch, tta=tta) for batch in batches))
        return concatenate(parts)

    def submit(
        self, images: UInt8[np.ndarray, "n s s 3"], *, tta: bool = False
    ) -> Callable[[], Outputs]:
        """Dispatches up to `batch_size` prepared images; the returned function waits for them."""
        count = len(images)
        variables, batch = self.on_devices(self.padded(images))
        results = _forward(
            self.module, variables, self.normalization, self.temperature, batch, tta=tta
        )

        def wait() -> Outputs:
            probabilities, features, views = jax.device_get(results)
            return Outputs(probabilities[:count], features[:count], views[:, :count])

        return wait

    def padded(self, rows: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "b ..."]:
        """Up to `batch_size` rows, padded with zeros to `batch_size`."""
        batch = np.zeros((self.batch_size, *rows.shape[1:]), rows.dtype)
        batch[: len(rows)] = rows
        return batch

    def on_devices(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """The variables on every device, and arrays of `batch_size` rows sharded over them."""
        mesh, variables = self._placed
        return variables, *(sharding.put(a, sharding.batch_sharding(mesh)) for a in arrays)

    @functools.cached_property
    def normalization(self) -> Normalization:
        """Turns prepared images into the input of the network."""
        content = self.preprocessing
        with jax.ensure_compile_time_eval():  # the first use may be in a function that is traced
            mean, std = (jnp.asarray(content[name], jnp.float32) for name in ("mean", "std"))
            if content["stain"] == "none":
                return Normalization(mean, std)
            target = jnp.asarray(content["stain_target"], jnp.float32)
        stain = Stain(content["stain"], content["background"] == "black")
        return Normalization(mean, std, target, stain)

    @functools.cached_property
    def _placed(self) -> tuple[Mesh, Any]:
        """The mesh of all devices of this process, and the variables on each of them."""
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        return mesh, jax.device_put(self.variables, sharding.replicated(mesh))


@functools.partial(jax.jit, static_argnames=("module", "tta"))
def _forward(
    module: nn.Module,
    variables: Any,
    normalization: Normalization,
    temperature: float,
    images: UInt8[Array, "n s s 3"],
    *,
    tta: bool,
) -> tuple[Float32[Array, "n c"], Float32[Array, "n d"], Float32[Array, "v n c"]]:
    """Compiled once for all runs of an architecture: their values are arguments."""

    def apply(images: Array) -> tuple[Array, Array]:
        logits, sown = module.apply(
            variables,
            normalization(images),
            train=False,
            mutable=["intermediates"],
        )
        logits = jnp.asarray(logits, jnp.float32)
        # A model outside of leukjax may sow no features; they are then of width 0.
        pooled = sown.get("intermediates", {}).get("pooled", (jnp.zeros((len(images), 0)),))[0]
        return jax.nn.softmax(logits / temperature), pooled

    if not tta:
        probabilities, features = apply(images)
        return probabilities, features, probabilities[None]
    views, features = jax.lax.map(apply, dihedral(images))
    return views.mean(axis=0), features[0], views


def dihedral(images: Shaped[Array, "n s s c"]) -> Shaped[Array, "8 n s s c"]:
    """Returns the eight views of test-time augmentation: four rotations, and their mirror images.

    A cell has no orientation: under the microscope all eight are equally likely. The first view is
    the image itself, and the views of a view are the same eight in another order.
    """
    rotated = [jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)]
    return jnp.stack([*rotated, *(view[:, :, ::-1] for view in rotated)])


def overlapped(pending: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yields each result once the next computation is dispatched, so that no device waits."""
    previous: Callable[[], T] | None = None
    for following in pending:
        if previous is not None:
            yield previous()
        previous = following
    if previous is not None:
        yield previous()


def concatenate(parts: list[Outputs]) -> Outputs:
    """Joins the outputs of batches."""
    probabilities, features, views = zip(*parts, strict=True)
    return Outputs(
        np.concatenate(probabilities), np.concatenate(features), np.concatenate(views, axis=1)
    )


def restore(
    workdir: Path,
    step: int | str = "best",
    *,
    module: nn.Module | None = None,
    batch_size: int = 32,
    calibrated: bool = False,
) -> Member:
    """Restores a trained network from a work directory, which may come from an untrusted source.

    Args:
      workdir: of a run with a finished checkpoint.
      step: ``best`` (on validation), ``latest``, or a number of optimizer steps.
      module: the network; None = made from the run's config.
      batch_size: images per dispatch; raised to a multiple of the number of devices.
      calibrated: use the temperature that fits the run's validation predictions.

    Raises:
      UserError: no run, no finished checkpoint, a damaged one, or one of another model.
    """
    run = RunDir(workdir)
    preprocessing, config = run.preprocessing(), run.config()
    is_given = module is not None
    if module is None:
        module = _make_module(preprocessing)
    expected, lora = _expected(module, preprocessing["image_size"]), Lora.of(config.optimizer)
    frozen, trained = lora.shapes(expected["params"])
    chosen, variables = reader.for_evaluation(
        workdir / "checkpoints",
        step,
        lower_is_better=config.checkpoint.metric == "loss",
        expected={**expected, "params": trained},
        is_given=is_given,
    )
    if lora.rank:
        path = base.find(preprocessing.get("init") or {})
        weights = base.read_base(path, expected["params"], frozen)
        variables["params"] = merge(weights, variables["params"], lora.scale)
    if not run.has_predictions("val"):
        logging.warning("%s: is not finished; using the checkpoint of step %d", workdir, chosen)
    devices = jax.local_device_count()
    return Member(
        workdir,
        chosen,
        config,
        preprocessing,
        module,
        jax.tree.map(jnp.asarray, variables),
        batch_size=-(-batch_size // devices) * devices,
        temperature=temperature(workdir, step) if calibrated else 1.0,
    )


def temperature(workdir: Path, step: int | str = "best") -> float:
    """Fits the temperature to a run's validation predictions (`calibration.temperature`).

    Raises:
      UserError: there are none, or they are those of another step.
    """
    if step != "best":
        raise UserError(
            f"step {step}: cannot be calibrated; only the best step has validation predictions"
        )
    table = RunDir(workdir).predictions("val")
    return calibration.temperature(table.labels, table.probabilities)


def _make_module(preprocessing: dict[str, Any]) -> nn.Module:
    return model_from_fields(
        preprocessing["model"],
        len(preprocessing["classes"]),
        dtype=runtime.compute_dtype(preprocessing["compute_dtype"]),
    )


def _expected(module: nn.Module, size: int) -> dict[str, Any]:
    """Shapes and dtypes of a module's variables."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}
