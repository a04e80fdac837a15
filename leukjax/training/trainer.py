"""The trainer: model, optimizer, loss, augmentation and devices, built once and used everywhere."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import optax
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import distributed, runtime, sharding
from leukjax.checkpoints.writer import Checkpoints
from leukjax.data.split import Split
from leukjax.errors import UserError, names_arguments
from leukjax.images.augment import Augment
from leukjax.metrics.scores import NAMES, scores
from leukjax.models import registry
from leukjax.models.summary import table
from leukjax.rundir import RunDir
from leukjax.training import (
    divergence,
    final_evaluation,
    hyperparameters,
    optimizers,
    pretrained,
    python_parts,
    trackers,
)
from leukjax.training.compiled import CompiledSteps, StepSpec, compiled_steps
from leukjax.training.data_placement import place_dataset
from leukjax.training.evaluation import predict_batches
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.loop import train as train_loop
from leukjax.training.metric_writer import MetricWriter
from leukjax.training.optimizer_registry import CUSTOM
from leukjax.training.preemption import StopRequest
from leukjax.training.run import Callback, Metric, Outcome, Run
from leukjax.training.state import TrainState
from leukjax.training.step import Augmentation, Batch, Loss, Metrics, StepOptions
from leukjax.training.training_data import GivenBatches, TrainingData, make_batches
from leukjax.weights.lora import Lora

if TYPE_CHECKING:
    from leukjax.data.dataset import Dataset, Subset
    from leukjax.predict.predictor import Predictor

_OF_BATCH = ("image", "label")
# Fields, besides the paths of data, in which the processes of a run may differ, for instance
# because their machines do.
_OF_PROCESS = ("data.prefetch", "data.threads", "data.workers", "runtime.")

_Method = TypeVar("_Method", bound=Callable[..., Any])
_DEFAULT_OPTIMIZER = optax.adam(1e-3)
# What messages say in the words of a config -> in those of the arguments of Trainer.
_ARGUMENTS = {
    divergence.ADVICE: "lower the learning rate of your optimizer, or add "
    "optax.clip_by_global_norm",
    **{f"data.{name}": name for name in ("image_size", "mean", "std", "cache_dir")},
    **{
        f"train.{name}": name
        for name in ("batch_size", "epochs", "accumulate", "ema_decay", "eval_every")
    },
    "checkpoint.metric": "checkpoint_metric",
    "loss.name": "loss",
    "loss.class_weights": "class_weights",
    "optimizer.freeze": "freeze",
    "optimizer.lora_rank": "lora_rank",
    "init.weights": "weights",
    "--config.seed": "seed",
}


def _names_arguments(method: _Method) -> _Method:
    """Decorates a method: errors name arguments, unless the trainer was made from a config."""

    @functools.wraps(method)
    def wrapped(self: "Trainer", *args: Any, **options: Any) -> Any:
        with names_arguments(_ARGUMENTS) if self._python else contextlib.nullcontext():
            return method(self, *args, **options)

    return wrapped  # type: ignore[return-value]


class Trainer:
    """Trains a model. The command line, the tests and the benchmarks all use it.

    ``fit`` does a whole run in a work directory; ``init_state``, ``train_step`` and ``eval_step``
    are the same compiled functions for a loop of your own. Functions compile when they are first
    called, and trainers that differ in numbers only (seed, learning rate) share them.
    """

    @names_arguments(_ARGUMENTS)
    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: optax.GradientTransformation | None = None,
        loss: str | Loss = "cross_entropy",
        augment: Augment | Augmentation | None = None,
        image_size: int = 96,
        batch_size: int = 32,
        epochs: float = 8,
        seed: int = 0,
        weights: str | os.PathLike[str] = "",
        mean: str | Sequence[float] = "auto",
        std: str | Sequence[float] = "auto",
        class_weights: str | Sequence[float] = "none",
        accumulate: int = 1,
        ema_decay: float = 0.0,
        freeze: str = "",
        lora_rank: int = 0,
        eval_every: str = "1 epochs",
        checkpoint_metric: str = "balanced_accuracy",
        metrics: Mapping[str, Metric] | None = None,
        callbacks: Sequence[Callback] = (),
        mesh: Mesh | None = None,
        cache_dir: str | os.PathLike[str] = "",
        donate: bool = True,
    ) -> None:
        """Checks the arguments; nothing is compiled or read yet.

        Args:
          model: a linen module ``(images float32[b, s, s, 3], *, train) -> logits``, as
            `create_model` returns it. In training it is given the rng ``dropout`` and the
            collection ``batch_stats``, no others.
          optimizer: an optax transformation. Default: ``optax.adam(1e-3)``.
          loss: "cross_entropy", "focal", "logit_adjusted", "ldam", or a function of logits
            float[b, c] and labels int[b] that returns float[b].
          augment: random views of training images: `Augment`, or a function of a key, images
            float32[b, s, s, 3] in [0, 1] and their positions in the global batch. Default: none.
          image_size: pixels per side.
          batch_size: images per step over all devices.
          epochs: length of a training.
          seed: of initialisation, order and augmentation.
          weights: a file, a run, or ``hf://OWNER/NAME``; "" starts at random.
          mean: of each colour in [0, 1], to normalise images; "auto" takes that of `weights`, or
            fits it to the training images.
          std: standard deviation of each colour, as `mean`.
          class_weights: "none", "balanced", or one weight per class.
          accumulate: micro-batches per step.
          ema_decay: moving average of the parameters, which is then evaluated; 0: none.
          freeze: regular expression over paths of parameters ("stem/conv/kernel"); those that it
            matches are not trained.
          lora_rank: rank of the updates of LoRA (`leukjax.weights.lora`, which also says what is
            trained), for a transformer with `weights`; 0: no LoRA.
          eval_every: duration between two validations, as "1 epochs" or "200 steps".
          checkpoint_metric: validation score that chooses the best checkpoint.
          metrics: functions of labels int[n] and probabilities float32[n, c] that return a number,
            by name; they are logged with each validation.
          callbacks: functions that are given each `Event`.
          mesh: devices with the axes ``data`` and ``model``, of any axis types: XLA shards
            (``AxisType.Auto``). Default: all devices along ``data``.
          cache_dir: where prepared images are kept. Default: the user's cache folder.
          donate: `train_step` reuses the memory of the state it is given, which must not be used
            afterwards.

        Raises:
          TypeError: an argument of another type.
          ValueError: a value that is not possible.
        """
        python_parts.check_arguments(augment, metrics, callbacks, NAMES)
        fields: dict[str, Any] = {
            "optimizer.name": CUSTOM,
            "data.image_size": image_size,
            "data.mean": _numbers(mean, "mean"),
            "data.std": _numbers(std, "std"),
            "data.cache_dir": os.fspath(cache_dir),
            "train.batch_size": batch_size,
            "train.epochs": epochs,
            "train.accumulate": accumulate,
            "train.ema_decay": ema_decay,
            "train.eval_every": eval_every,
            "optimizer.freeze": freeze,
            "optimizer.lora_rank": lora_rank,
            "checkpoint.metric": checkpoint_metric,
            "loss.name": CUSTOM if callable(loss) else loss,
            "loss.class_weights": _numbers(class_weights, "class_weights"),
            "init.weights": os.fspath(weights),
            "seed": seed,
        }
        options = Augment() if augment is None or callable(augment) else augment
        for name, value in dataclasses.asdict(options).items():
            if name != "background":
                fields[f"augment.{name}"] = value
        if loss == CUSTOM:
            raise UserError("loss=custom: give a function instead")
        config = configs.load("default", fields)
        num_classes = python_parts.check_model(model, image_size, batch_size)
        for field, value in _model_fields(model).items():
            configs.set_field(config, field, value)
        configs.check(config)
        hyperparameters.check_given(config, num_classes)
        params = pretrained.shapes(model, image_size)["params"]
        _, trained = Lora.of(config.optimizer).shapes(params)
        python: dict[str, Any] = {
            "optimizer": optimizers.from_optax(optimizer or _DEFAULT_OPTIMIZER, trained)
        }
        python |= {"loss": loss} if callable(loss) else {}
        python |= {"augment": augment} if callable(augment) else {}
        python_parts.check_functions(python, num_classes, image_size)
        mesh = sharding.check(mesh) or sharding.make_mesh(config.mesh, batch_size)
        self._build(
            config, model, num_classes, mesh, None, python, metrics or {}, callbacks, donate
        )

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        *,
        num_classes: int | None = None,
        mesh: Mesh | None = None,
        platform: str = "",
    ) -> "Trainer":
        """The trainer of a config, with its data.

        Args:
          config: checked, as `load_config` returns it.
          num_classes: given, no data are read, and `fit` needs some.
          mesh: devices, if not those that ``config.mesh`` names.
          platform: for which the model is made: cpu, gpu or tpu. Default: this process's.

        Raises:
          ValueError: what is wrong with the config or its data.
        """
        mesh = sharding.check(mesh) or sharding.make_mesh(config.mesh, config.train.batch_size)
        _check_eval_batch(config, mesh)
        data = TrainingData.from_config(config) if num_classes is None else None
        classes = len(data.classes) if data is not None else int(num_classes or 0)
        trainer = cls.__new__(cls)
        module = registry.model_from_config(config, classes, platform or jax.default_backend())
        size = config.data.image_size
        num_outputs = python_parts.check_model(module, size, config.train.batch_size)
        trainer._build(config, module, num_outputs, mesh, data)
        return trainer

    def _build(
        self,
        config: ConfigDict,
        model: nn.Module,
        num_classes: int,
        mesh: Mesh,
        data: TrainingData | None,
        python: Mapping[str, Any] = MappingProxyType({}),
        metrics: Mapping[str, Metric] = MappingProxyType({}),
        callbacks: Sequence[Callback] = (),
        donate: bool = True,
    ) -> None:
        self.config, self.model, self.num_classes, self.data = config, model, num_classes, data
        self.mesh = mesh
        self._python = python  # fields of StepOptions that no config can express
        self._metrics, self._callbacks, self._donate = dict(metrics), tuple(callbacks), donate
        self._check_fine_tuning()

    def __repr__(self) -> str:
        train = self.config.train
        return (
            f"Trainer({type(self.model).__name__}, {self.num_classes} classes, "
            f"{self.config.data.image_size} px, batches of {train.batch_size}, "
            f"{train.epochs:g} epochs, {self.mesh.devices.size} devices)"
        )

    # A loop of your own.

    @_names_arguments
    def init_state(
        self, train: "Subset | None" = None, *, steps_per_epoch: int | None = None
    ) -> TrainState:
        """A fresh state on the devices.

        Args:
          train: training images, to which mean, standard deviation and class weights are fitted.
            Default: those of the config, if the trainer was made from one with data.
          steps_per_epoch: for a schedule in epochs, where there are no training images.

        Raises:
          ValueError: something has to be fitted, and there are no training images.
        """
        data = self.data if train is None else self._data_of(train)
        classes = data.classes if data is not None else ()
        initial = pretrained.find(self.config, self.model, classes, Path())
        if data is None:
            settings = hyperparameters.settings_without_data(
                self.config, self.num_classes, steps_per_epoch, initial.statistics()
            )
        else:
            rows = data.rows("train")
            per_epoch = len(rows) // self.config.train.batch_size
            settings = hyperparameters.make_settings(
                self.config, data.records, rows, per_epoch, initial.statistics()
            )
        return initial.place(self.compiled().init(settings))

    @_names_arguments
    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One training step.

        Args:
          state: its buffers are reused unless the trainer has ``donate=False``.
          batch: ``image`` uint8[b, s, s, 3] and ``label`` int32[b]; further fields are not used.

        Returns:
          The state one step later, and float32 metrics: ``loss``, ``grad_norm``.
        """
        self._check_batch(state, batch)
        return self.compiled().train_steps[1](state, {name: batch[name] for name in _OF_BATCH})

    @_names_arguments
    def eval_step(self, state: TrainState, batch: Batch) -> Float[Array, "b c"]:
        """float32[b, c], the logits of ``batch["image"]``, without augmentation or dropout."""
        self._check_batch(state, batch, labels=False)
        return self.compiled().eval_step(state, {"image": batch["image"]})

    @_names_arguments
    def batches(self, train: "Subset | None" = None, start: int = 0) -> Iterator[Batch]:
        """Yields training batches without end, from a step: those that `fit` would train on.

        Args:
          train: training images. Default: those of the config.
          start: first step.

        Raises:
          ValueError: there are no training images.
        """
        data = self.data if train is None else self._data_of(train)
        if data is None:
            raise ValueError("batches: needs training images")
        size = self.config.train.batch_size
        made = make_batches(self.config, data.records, data.rows("train"), size, training=True)
        return made.iterate(start, 2**31)

    def _check_batch(self, state: TrainState, batch: Batch, *, labels: bool = True) -> None:
        python_parts.check_batch(
            batch,
            self.config.data.image_size,
            self.num_classes,
            self.mesh.shape["data"],
            name="batch",
            labels=labels,
        )
        self._check_state(state)

    def _check_state(self, state: TrainState) -> None:
        if not isinstance(state, TrainState):
            raise TypeError(
                f"state: expected a TrainState of init_state, got {type(state).__name__}"
            )
        if getattr(state.step, "is_deleted", lambda: False)():
            raise ValueError(
                "state: its memory was reused by train_step; continue with the state that it "
                "returned, or make the trainer with donate=False"
            )

    def compiled(
        self, background: str = "", image_sharding: NamedSharding | None = None
    ) -> CompiledSteps:
        """The jitted functions.

        Args:
          background: of the images: "black" or "bright"; rotation and zoom fill with it. Default:
            that of the trainer's own data, or black.
          image_sharding: of all records on the devices, if they are there.
        """
        spec = StepSpec(
            self.model,
            self.num_classes,
            self.config.data.image_size,
            self.options(background or (self.data.records.background if self.data else "black")),
            self.mesh,
            sharding.rules(self.config.mesh),
            image_sharding,
            self.config.train.steps_per_call,
            self._donate,
        )
        return compiled_steps(spec)

    def options(self, background: str = "black") -> StepOptions:
        """What is compiled into the training step."""
        return hyperparameters.step_options(self.config, background, self._python)

    @_names_arguments
    def evaluate(self, state: TrainState, subset: "Subset | Dataset") -> dict[str, float | None]:
        """Scores of a state on images; None where a score is undefined."""
        self._check_state(state)
        data = self._data_of(subset, name="subset")
        size = self.config.train.eval_batch_size or self.config.train.batch_size
        batches = make_batches(self.config, data.records, data.rows("train"), size, training=False)
        eval_step = self.compiled(data.records.background).eval_step
        predicted = predict_batches(batches, self.mesh, eval_step, state, data.records)
        return scores(predicted.labels, predicted.probabilities, data.classes, data.positive).values

    # A whole run.

    @_names_arguments
    def fit(
        self,
        train: "Subset | Iterable[Batch] | Callable[[int], Iterable[Batch]] | None" = None,
        val: "Subset | None" = None,
        *,
        workdir: str | os.PathLike[str],
        test: "Subset | None" = None,
        steps_per_epoch: int | None = None,
        verbose: bool = True,
    ) -> "Predictor":
        """Trains to the end, or resumes the run in the work directory, bit-exactly.

        Args:
          train: training images; or batches as those of `train_step`, the same ones at every
            start, or a function of the first step that returns them. Default: those of the config.
          val: validation images, which choose the best checkpoint.
          workdir: folder of the run.
          test: images that are scored once, at the end; the folder then holds a report, and
            `compare_runs` can read it.
          steps_per_epoch: number of batches that count as an epoch, if `train` is batches. Mean,
            standard deviation and class weights must then be given.
          verbose: print a line per validation to standard error.

        Returns:
          The best checkpoint, ready to predict.

        Raises:
          ValueError: the data do not fit the model, a group is in two of the subsets, a class is
            missing in one, or the folder holds another run.
        """
        # Imported late: JAX users who write a loop of their own need neither.
        from leukjax.predict import predictor
        from leukjax.training.run_report import write_report

        folder = Path(workdir)
        batches = None
        if isinstance(train, Split):
            raise TypeError("train: got a Split; give split.train, split.val")
        if train is not None and not hasattr(train, "dataset") and not hasattr(train, "prepare"):
            batches = self._given_batches(train, val, test, steps_per_epoch)
            train = None
        with _lock(folder):
            data = self.data if train is None and val is None else self._data_of(train, val, test)
            if data is None:
                raise ValueError("train, val: fit needs training and validation images")
            if not len(data.rows("val")):
                raise ValueError("val: fit needs validation images, as split.val")
            if data is not self.data and test is None:
                self.run(folder, data, score=("val",), batches=batches, echo=verbose)
            else:
                write_report(self.run(folder, data, echo=verbose))
        is_registered = registry.name_of(self.model) is not None
        return predictor.load(folder, model=None if is_registered else self.model)

    def _given_batches(
        self, train: Any, val: Any, test: Any, steps_per_epoch: int | None
    ) -> GivenBatches:
        """Training batches of the user.

        Raises:
          TypeError: they cannot be iterated over.
          ValueError: an argument that batches need is missing.
        """
        if not (callable(train) or isinstance(train, Iterable)):
            raise TypeError(
                f"train: expected a Subset, as split.train, or batches; got {type(train).__name__}"
            )
        if steps_per_epoch is None:
            raise ValueError("steps_per_epoch: give it, because train is batches, not a Subset")
        if val is None:
            raise ValueError("val: give a Subset to validate on, as split.val")
        if test is not None:
            raise ValueError(
                "test: cannot be given with training batches; use evaluate of what fit returns"
            )
        devices = self.mesh.shape["data"] // jax.process_count()
        size = self.config.data.image_size
        return GivenBatches(train, steps_per_epoch, size, self.num_classes, devices)

    def run(
        self,
        folder: Path,
        data: TrainingData,
        *,
        score: Sequence[str] = ("val", "test"),
        stop: StopRequest | None = None,
        batches: GivenBatches | None = None,
        echo: bool = False,
    ) -> Outcome:
        """What `fit` does inside the lock of the work directory.

        Args:
          folder: the work directory, locked by the caller.
          data: images and split.
          score: splits whose predictions the best checkpoint writes at the end.
          stop: queried between steps.
          batches: training batches, if not those of `data`.
          echo: print to standard error, in place of the log.

        Raises:
          Stopped: `stop` was requested; everything is saved.
        """
        began = time.perf_counter()
        run, resumed = self._assemble(folder, data, batches)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_latest=self.config.checkpoint.keep_latest,
            lower_is_better=self.config.checkpoint.metric == "loss",
        )
        step = checkpoints.latest() if resumed else None
        # In a list that is emptied: only the loop may hold the state, which is freed at its end.
        state = [run.fresh_state() if step is None else run.restored_state(checkpoints, step)]
        start = step or 0
        run_dir = RunDir(folder)
        repeated = max(0, run_dir.reached() - start)
        log = MetricWriter(
            run_dir,
            start=start,
            total_steps=run.total_steps,
            steps_per_epoch=run.steps_per_epoch,
            positive=data.positive,
            echo=echo,
            tracked_by=self.config.train.trackers,
            settings=configs.without_places(self.config),
        )
        try:
            # Once more inside, because closing the checkpoints waits for the other processes.
            with distributed.ending_together():
                if start == run.total_steps:
                    log.say(f"all {start} steps of {folder} are done; nothing is trained")
                elif resumed:
                    log.say(f"resuming from step {start} of {run.total_steps}")
                if jax.process_index() == 0:
                    run_dir.record_start(start, repeated)
                final_evaluation.write_preprocessing(run)
                train_loop(run, state.pop(), start, checkpoints, log, stop)
                best = final_evaluation.score_best(run, checkpoints, log, score)
                newest = checkpoints.latest() or 0
        finally:
            log.close()
            checkpoints.close()
        return Outcome(run, best, newest, time.perf_counter() - began)

    def _assemble(
        self, folder: Path, data: TrainingData, batches: GivenBatches | None = None
    ) -> tuple[Run, bool]:
        """The run, and whether the work directory holds an earlier start of it.

        Raises:
          UserError: what is wrong with config, data or folder; nothing is half-written.
        """
        config, records = self.config.copy_and_resolve_references(), data.records
        for field, value in (data.config_fields or {}).items():
            configs.set_field(config, field, value)
        if batches is not None:
            config.data.cache = "none"  # validation is read as the training batches are: streamed
        placement = place_dataset(config, records, self.mesh)
        train_batches = batches or make_batches(
            config, placement.images, data.rows("train"), config.train.batch_size, training=True
        )
        per_epoch = train_batches.steps_per_epoch
        summary = table(self.model, config.data.image_size)
        logging.info("%s\n", summary.text())
        initial = pretrained.find(config, self.model, data.classes, folder)
        if frozen := self._check_fine_tuning():
            logging.info("%s", frozen)
        if batches is None:
            settings = hyperparameters.make_settings(
                config, records, data.rows("train"), per_epoch, initial.statistics()
            )
        else:
            settings = hyperparameters.settings_without_data(
                config, self.num_classes, per_epoch, initial.statistics()
            )
        hyperparameters.warn(config, settings)
        # All that can be wrong with config and data is known here; from now on files are written.
        facts = data.facts() | ({"init": dict(initial.facts)} if initial.facts else {})
        numerics = runtime.chosen_numerics()
        facts |= {"numerics": numerics} if numerics else {}
        facts |= {"python": digests} if (digests := self._digests()) else {}
        distributed.check_same(facts, "the prepared data")
        resumed = distributed.from_first(lambda: RunDir(folder).claim(config, facts))
        data.write(folder)
        if initial.mapped is not None and jax.process_index() == 0:
            RunDir(folder).write("weights.csv", initial.mapped.csv())
        run = Run(
            config=config,
            workdir=folder,
            data=data,
            module=self.model,
            mesh=self.mesh,
            placement=placement,
            train_batches=train_batches,
            initial=initial,
            settings=jax.device_get(settings),
            compiled=self.compiled(records.background, placement.sharding),
            total_steps=int(settings.total_steps),
            summary=summary,
            metrics=self._metrics,
            callbacks=self._callbacks,
        )
        return run, resumed

    def _digests(self) -> dict[str, str]:
        model = self.model if registry.name_of(self.model) is None else None
        return python_parts.digests(
            self._python, model, self.num_classes, self.config.data.image_size
        )

    def _check_fine_tuning(self) -> str:
        """A line on what is frozen; "" if nothing is."""
        fine_tuning = FineTuning.of(self.config.optimizer)
        if not fine_tuning.freezes:
            return ""
        shapes = pretrained.shapes(self.model, self.config.data.image_size)
        return fine_tuning.check(shapes["params"])

    def _data_of(
        self, train: Any, val: Any = None, test: Any = None, *, name: str = "train"
    ) -> TrainingData:
        """The data of some subsets, which fit the model and the mesh; `name` is that of `train`."""
        for argument, subset in ((name, train), ("val", val), ("test", test)):
            if not (subset is None or hasattr(subset, "dataset") or hasattr(subset, "prepare")):
                raise TypeError(
                    f"{argument}: expected a Subset, as split.train of lj.split_by_group(data), "
                    f"or a Dataset, as lj.Arrays(images, labels); got {type(subset).__name__}"
                )
        data = TrainingData.from_subsets(self.config, train, val, test)
        if len(data.classes) != self.num_classes:
            raise ValueError(
                f"the model has {self.num_classes} classes, the data have {len(data.classes)} "
                f"({', '.join(data.classes)})"
            )
        size, devices = self.config.train.batch_size, self.mesh.shape["data"]
        if size % devices:
            raise ValueError(
                f"batch_size={size}: not divisible by the {devices} devices of the mesh's data axis"
            )
        return data


def train(config: ConfigDict, folder: Path, *, score: Sequence[str] = ("val", "test")) -> Outcome:
    """Trains as the command does: over all processes, with JAX set up, stopping on SIGTERM.

    Args:
      config: of the run.
      folder: its work directory.
      score: splits that are scored at the end; a trial must leave test unread.

    Raises:
      UserError: config, data or folder do not allow it.
      Stopped: a signal asked for it; everything is saved.
    """
    began = time.perf_counter()
    trackers.check_installed(config.train.trackers)
    distributed.join(config.runtime.timeout)
    runtime.start(config)
    stop = StopRequest()
    with distributed.ending_together(), _lock(folder):
        paths = [name for name in configs.path_fields() if name.startswith(("data.", "split."))]
        distributed.check_same(config.to_dict(), "--config", ignore=(*_OF_PROCESS, *paths))
        runtime.log_start()
        trainer = Trainer.from_config(config)
        assert trainer.data is not None
        outcome = trainer.run(folder, trainer.data, score=score, stop=stop)
    return dataclasses.replace(outcome, seconds=time.perf_counter() - began)


def _lock(folder: Path) -> contextlib.AbstractContextManager[Any]:
    # One process of several writes; the others only read what it wrote.
    return RunDir(folder).lock() if jax.process_index() == 0 else contextlib.nullcontext()


def _check_eval_batch(config: ConfigDict, mesh: Mesh) -> None:
    size, devices = config.train.eval_batch_size, mesh.shape["data"]
    if size % devices:
        raise UserError(
            f"--config.train.eval_batch_size={size}: not divisible by the {devices} devices of the "
            "mesh's data axis; change it, or leave it at 0 for train.batch_size"
        )


def _numbers(value: str | Sequence[float], argument: str) -> str:
    """Numbers as the text that a config holds."""
    if isinstance(value, str):
        return value
    try:
        return ",".join(repr(float(number)) for number in value)
    except (TypeError, ValueError) as error:
        one_each = "class" if argument == "class_weights" else "colour"
        raise TypeError(
            f"{argument}: expected a text, or one number per {one_each}, as (0.5, 0.4, 0.6); got "
            f"{str(value)[:100]}"
        ) from error


def _model_fields(model: nn.Module) -> dict[str, Any]:
    """Config fields that describe a model; ``custom`` if its class is not registered."""
    name = registry.name_of(model)
    if name is None:
        return {"model.name": CUSTOM}
    known = configs.fields()
    options = {f"model.{option}": option for option in registry.option_names(name)}
    return {"model.name": name} | {
        field: getattr(model, option)
        for field, option in options.items()
        if field in known and hasattr(model, option)
    }
