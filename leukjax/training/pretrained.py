"""Initial weights of a run: random, from a file, from the Hugging Face hub, or from a run."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from leukjax import distributed
from leukjax.checkpoints import checksums, reader
from leukjax.errors import UserError
from leukjax.rundir import PREPROCESSING, RunDir
from leukjax.training.state import LoraState, TrainState
from leukjax.weights import base, hub, layouts, names, read
from leukjax.weights.axes import FLAX
from leukjax.weights.lora import Lora
from leukjax.weights.map import COUNTER, Mapped
from leukjax.weights.source import Source, of_file

RUN = "a run of leukjax"  # layout of weights from a work directory


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What a run starts from.

    Attributes:
      facts: what must stay the same until the run ends; empty for a random start.
      mapped: the values; None for a random start, and for a run that resumes without the file.
    """

    facts: Mapping[str, Any]
    mapped: Mapped | None

    def statistics(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation with which the weights were trained."""
        return (self.facts["mean"], self.facts["std"]) if self.facts else None

    def place(self, state: TrainState) -> TrainState:
        """Puts the values into a fresh state, on each device its part.

        The arrays of `state` that are replaced are deleted.

        Raises:
          UserError: the file of the values does not exist.
        """
        if not self.facts:
            return state
        if self.mapped is None:
            raise UserError(
                f"init.weights: {self.facts['weights']} does not exist, and this run has no "
                "checkpoint to resume from; restore the file"
            )
        if isinstance(state, LoraState):
            state = state.replace(base=self._put("params", state.base))
        return state.replace(
            params=self._put("params", state.params),
            batch_stats=self._put("batch_stats", state.batch_stats),
            ema_params=self._put("params", state.ema_params),
            ema_batch_stats=self._put("batch_stats", state.ema_batch_stats),
        )

    def complete(self, restored: TrainState, form: TrainState) -> TrainState:
        """Adds what a checkpoint leaves out: the base of LoRA.

        Args:
          restored: from a checkpoint.
          form: shapes, dtypes and shardings of the state of the run.
        """
        if not isinstance(form, LoraState):
            return restored
        fields = {f.name: getattr(restored, f.name) for f in dataclasses.fields(TrainState)}
        return LoraState(**fields, base=self._put("params", form.base), scale=form.scale)

    def _put(self, collection: str, tree: Any) -> Any:
        assert self.mapped is not None
        values = self.mapped.values

        def put(path: tuple[str, ...], leaf: Any) -> jax.Array:
            value = values.get((collection, *path))
            if value is None:
                return leaf
            shape, where = leaf.shape, leaf.sharding
            if isinstance(leaf, jax.Array):
                leaf.delete()  # the devices never hold the random values and these
            # A copy for each device: the state is donated, and may share memory with nothing.
            return jax.make_array_from_callback(shape, where, lambda index: value[index].copy())

        flat = traverse_util.flatten_dict(tree)
        return traverse_util.unflatten_dict({path: put(path, leaf) for path, leaf in flat.items()})


RANDOM = InitialWeights({}, None)


def find(
    config: ConfigDict, module: nn.Module, classes: tuple[str, ...], folder: Path
) -> InitialWeights:
    """Finds, checks and reads the weights of ``config.init``.

    Args:
      config: of the run.
      module: its model.
      classes: of its data, in the order of the logits.
      folder: its work directory. A run that resumes does not need the file.

    Raises:
      UserError: the weights do not exist, are damaged, or do not fit the model.
    """
    text, lora = config.init.weights, Lora.of(config.optimizer)
    if lora.rank and not text:
        raise UserError(
            f"--config.optimizer.lora_rank={lora.rank}: random weights would be frozen; give "
            "--config.init.weights=FILE or hf://OWNER/NAME"
        )
    if not text:
        return RANDOM
    recorded = distributed.from_first(lambda: _facts_without_file(_path(text, config), folder))
    if recorded and lora.rank:
        raise UserError(
            f"init.weights: {text} does not exist, and the checkpoints of a LoRA run leave it out; "
            "restore the file"
        )
    if recorded:
        logging.warning("init.weights: %s does not exist; resuming from the checkpoint", text)
        return InitialWeights(recorded, None)
    if text.startswith(hub.PREFIX):
        distributed.first(lambda: hub.fetch(text, config.data.cache_dir))
    path = _path(text, config)
    if lora.rank and path.is_dir():
        raise UserError(
            f"init.weights: {path} is a run, and LoRA needs a file: write one by python -m "
            "leukjax.export --format=safetensors"
        )
    source = _of_run(path, config.data.stain) if path.is_dir() else of_file(path)
    wanted = config.init.sha256
    if wanted and wanted != source.sha256:
        raise UserError(
            f"--config.init.sha256={wanted}: {path} has {source.sha256}; get the right file"
        )
    layouts.check_model(source.tensors.where, source.title, source.model, config.model)
    other_classes = source.classes is not None and source.classes != list(classes)
    ours = traverse_util.flatten_dict(shapes(module, config.data.image_size))
    new_head = config.init.head == "new" or other_classes
    mapped = base.mapped(source, ours, allow=config.init.allow, new_head=new_head)
    _log(source, mapped, config.model)
    facts = {
        "weights": text,
        "sha256": source.sha256,
        "layout": source.title,
        "mean": source.mean,
        "std": source.std,
    }
    if lora.rank:
        frozen, _ = lora.shapes(shapes(module, config.data.image_size)["params"])
        base.checked(mapped, traverse_util.flatten_dict({"params": frozen}), path)
        distributed.first(lambda: _remember(path, source.sha256))
    return InitialWeights(facts, mapped)


@functools.lru_cache(maxsize=8)
def shapes(module: nn.Module, image_size: int) -> dict[str, Any]:
    """The shapes of a model's ``params`` and, if it has any, ``batch_stats``."""
    images = jnp.zeros((1, image_size, image_size, 3))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    return {name: tree[name] for name in ("params", "batch_stats") if name in tree}


def _remember(path: Path, sha256: str) -> None:
    try:
        base.remember(path, sha256)
    except (OSError, UserError) as error:  # the cache is optional
        logging.warning("%s; to predict, run python -m leukjax.weights add %s", error, path)


def _path(text: str, config: ConfigDict) -> Path:
    if text.startswith(hub.PREFIX):
        return hub.cached_path(text, config.data.cache_dir)
    return Path(text).expanduser()


def _facts_without_file(path: Path, folder: Path) -> dict[str, Any] | None:
    """The recorded facts of the run in a folder, if its file of weights no longer exists."""
    if path.exists():
        return None
    try:
        return RunDir(folder).data().get("init")
    except UserError:
        return None  # no run, or one that `RunDir.claim` will refuse


def _of_run(path: Path, stain: str) -> Source:
    """The best checkpoint of a work directory, or one of its checkpoints.

    Mean and standard deviation come with it, and stain normalisation does not: a warning if that of
    the images, `stain`, differs.
    """
    workdir = path if (path / PREPROCESSING).is_file() else path.absolute().parent.parent
    step = "best" if workdir == path or not path.name.isdigit() else int(path.name)
    try:
        run = RunDir(workdir)
        preprocessing, config = run.preprocessing(), run.config()
    except UserError as error:
        raise UserError(
            f"init.weights: {path} is not a run of leukjax, or its JSON files are damaged "
            f"({error}); give a work directory, one of its checkpoints, or a file of weights"
        ) from error
    if config.optimizer.lora_rank:
        raise UserError(
            f"init.weights: {path} is a run with LoRA, whose checkpoints hold updates only: write "
            "a file by python -m leukjax.export --format=safetensors"
        )
    if preprocessing["stain"] != stain:
        logging.warning(
            "init.weights: %s was trained with data.stain=%s, and these images have data.stain=%s: "
            "its features differ",
            *(path, preprocessing["stain"], stain),
        )
    checkpoints, is_loss = workdir / "checkpoints", config.checkpoint.metric == "loss"
    step, tree = reader.for_evaluation(checkpoints, step, lower_is_better=is_loss)
    flat = traverse_util.flatten_dict(tree, sep="/")
    return Source(
        title=RUN,
        tensors=read.Tensors(
            where=str(path),
            shapes={name: value.shape for name, value in flat.items()},
            floats=frozenset(flat),
            metadata={},
            get=flat.__getitem__,
        ),
        names=names.own,
        axes=FLAX,
        model={"name": preprocessing["model"]["name"]},
        mean=preprocessing["mean"],
        std=preprocessing["std"],
        classes=preprocessing["classes"],
        sha256=read.checksum(checkpoints / str(step) / checksums.NAME),  # of all its files
    )


def _log(source: Source, mapped: Mapped, model: ConfigDict) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in mapped.counts().items())
    logging.info("init.weights: %s, %s: %s", source.tensors.where, source.title, counts)
    for row in mapped.rows:
        if row.status != "loaded" and row.note != COUNTER:
            logging.info("  %s: %s (%s)", row.status, row.variable or row.tensor, row.note)
    tanh = source.axes is FLAX  # google-research computes it so; a run of leukjax records its own
    has_gelu = model.name in ("hybrid_vit", "vit")
    if has_gelu and source.classes is None and model.gelu_tanh != tanh:
        logging.warning(
            "%s computes GELU %s: --config.model.gelu_tanh=%s gives the same logits",
            source.title,
            "by tanh" if tanh else "exactly",
            tanh,
        )
