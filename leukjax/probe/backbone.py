"""The network whose features are probed: its weights on the devices, and one compiled function."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

import leukjax
from leukjax import config as configs
from leukjax import runtime, sharding
from leukjax.errors import UserError
from leukjax.images.normalize import standardize, to_float
from leukjax.training import hyperparameters, pretrained
from leukjax.training import state as states
from leukjax.weights.lora import Lora

# What may be sown of an image, the first one first: patches after the last block of a transformer.
_MAPS = ("patch_tokens", "feature_map")
_NO_TRAINING = {
    "loss.name": "cross_entropy",
    "loss.class_weights": "none",
    "loss.deferred": "0 epochs",
    "train.swa": "0 epochs",
    "optimizer.lora_rank": 0,
}
# Of ImageNet, for images before random weights: all folds share the features, so that nothing can
# be fitted to the training images of one.
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A network that is not trained.

    Attributes:
      module: the model.
      variables: ``params`` and ``batch_stats``, on the devices of `mesh`.
      image_size: pixels per side.
      mesh: the devices.
      mean, std: with which images are normalised, float32[3].
      facts: of the weights, as a run records them ("weights", "sha256", …); {} = random.
      identity: what features depend on besides the images; "" = this is not known, because the
        code of the model is not part of leukjax.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    image_size: int
    mesh: Mesh
    mean: np.ndarray
    std: np.ndarray
    facts: Mapping[str, Any]
    identity: str

    @functools.cached_property
    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of a row and dtype of each output.

        Raises:
          UserError: the model sows no features.
        """
        shape = (1, self.image_size, self.image_size, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        outputs = jax.eval_shape(self._forward, self.variables, images)
        return {name: (tuple(x.shape[1:]), np.dtype(x.dtype)) for name, x in outputs.items()}

    def __call__(self, images: UInt8[np.ndarray, "n s s 3"]) -> dict[str, Array]:
        """Dispatches a batch, whose size the devices along the data axis divide.

        Returns:
          ``features`` float32[n, d], the input of the classification head, and ``tokens``
          float16[n, t, e], the last map of patches or features in reading order, if it is sown.
        """
        batch = sharding.put(images, sharding.batch_sharding(self.mesh))
        return self._forward(self.variables, batch)

    @functools.cached_property
    def _forward(self) -> Any:
        # Both outputs are always computed: a program without one might give other bits.
        def forward(variables: Any, images: Array) -> dict[str, Array]:
            mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
            normalized = standardize(to_float(images), mean, std)
            _, sown = self.module.apply(
                variables, normalized, train=False, mutable=["intermediates"]
            )
            sown = sown.get("intermediates", {})
            if "pooled" not in sown:
                raise UserError(
                    f"model {type(self.module).__name__}: sows no features; add "
                    "self.sow('intermediates', 'pooled', x) before its head"
                )
            outputs = {"features": sown["pooled"][0].astype(jnp.float32)}
            maps = [sown[name] for name in _MAPS if name in sown]
            if maps:
                x = maps[0][0].astype(jnp.float16)
                outputs["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
            return outputs

        return jax.jit(forward)


def make(config: ConfigDict, module: nn.Module, classes: tuple[str, ...], mesh: Mesh) -> Backbone:
    """Returns a model with the weights of ``config.init``, without their head.

    Args:
      config: of the probe.
      module: its model.
      classes: of its data.
      mesh: the devices; ``config.mesh.fsdp`` shards the weights over them.

    Raises:
      UserError: the weights do not exist, are damaged, or do not fit the model; or normalisation
        would have to be fitted.
    """
    config = config.copy_and_resolve_references()
    fitted = [name for name in ("mean", "std") if config.data[name] == "fit"]
    if fitted or config.data.stain != "none":
        name = (*fitted, "stain")[0]
        raise UserError(
            f"--config.data.{name}={config.data[name]}: is fitted to training images, and all "
            "folds of a probe share the features; leave it out"
        )
    # Nothing else of a training counts here, and some of it would need training images.
    for field, value in _NO_TRAINING.items():
        configs.set_field(config, field, value)
    if config.init.weights:
        config.init.head = "new"
    initial = pretrained.find(config, module, classes, Path())
    statistics = initial.statistics() or (_MEAN, _STD)
    settings = hyperparameters.settings_without_data(config, len(classes), 1, statistics)
    init, _ = states.make_init(
        module,
        lambda params: {},  # there is no optimizer
        settings=states.settings_form(len(classes)),
        image_size=config.data.image_size,
        ema=False,
        mesh=mesh,
        rules=sharding.rules(config.mesh),
        lora=Lora.of(config.optimizer),
    )
    _log(initial.facts)
    mean, std = np.asarray(settings.mean), np.asarray(settings.std)
    return Backbone(
        module,
        initial.place(init(settings)).for_evaluation(),
        config.data.image_size,
        mesh,
        mean,
        std,
        initial.facts,
        _identity(module, initial.facts.get("sha256", f"random {config.seed}"), mean, std),
    )


def _log(facts: Mapping[str, Any]) -> None:
    if not facts:
        logging.warning(
            "init.weights is empty: the features are those of random weights, a baseline; "
            "--weights names published ones"
        )
    elif facts["layout"] == pretrained.RUN:
        logging.warning(
            "--weights=%s: a run of leukjax, which may have trained on images that are tested "
            "here; scores are too high unless it was trained on other data",
            facts["weights"],
        )


def _identity(module: nn.Module, weights: str, mean: np.ndarray, std: np.ndarray) -> str:
    if not type(module).__module__.startswith("leukjax."):
        return ""
    options = {
        name: str(getattr(module, name))
        for name in type(module).__dataclass_fields__
        if name not in ("parent", "name", "num_classes")
    }
    return json.dumps(
        {
            "weights": weights,
            "model": [type(module).__qualname__, options],
            "mean": mean.tolist(),
            "std": std.tolist(),
            "numerics": runtime.chosen_numerics(),
            "software": [leukjax.__version__, jax.__version__, jax.default_backend()],
        }
    )
