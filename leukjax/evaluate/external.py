"""The work of `leukjax.evaluate --data`: a test of runs on another data set."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool

from leukjax import config as configs
from leukjax import runtime, storage
from leukjax.data.datasets import make_dataset
from leukjax.errors import UserError
from leukjax.evaluate import external_page
from leukjax.evaluate.external_result import Calibrated, Result, Unlike, content
from leukjax.evaluate.overlap import overlap
from leukjax.evaluate.rescore import batch_size_of
from leukjax.metrics import calibration, thresholds
from leukjax.metrics.predictions import MAX_BYTES, Predictions, mean
from leukjax.metrics.scores import scores
from leukjax.metrics.subgroups import subgroups
from leukjax.predict import out_of_distribution, recorded
from leukjax.predict.external import ExternalPredictions
from leukjax.predict.predictor import Predictor, load
from leukjax.report import page
from leukjax.report.external import FILE
from leukjax.report.style import save
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

# Fields of the section data that say how images are prepared: those of the run are used.
_OF_THE_RUN = ("image_size", "crop", "denoise", "stain", "mean", "std", "positive")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of an external test; see `leukjax.evaluate`."""

    data: str
    class_map: str = ""
    threshold: str = "youden"
    tta: bool = False
    overrides: Sequence[tuple[str, Any]] = ()


def run(folders: Sequence[Path], output: Path, options: Options) -> None:
    """Tests runs on another data set and writes the result; the run folders are only read.

    Writes ``external_test.json``, ``predictions.csv``, ``summary.md`` and figures, and prints the
    scores. The images are those of the flags alone: paths in a run are not used.

    Raises:
      UserError: folders without a finished run, data that cannot be read, or classes that do not
        match; nothing is written then.
    """
    _check(folders, output, options)
    data = configs.load(options.data, options.overrides).data
    config = RunDir(folders[0]).config()
    runtime.start(config)
    predictor = load(list(folders), tta=options.tta, batch_size=batch_size_of(config))
    threshold = _threshold(predictor, options)
    dataset = make_dataset(data)
    predicted = predictor.external_predictions(dataset, options.class_map or None, data.cache_dir)
    for note in predicted.records.notes:
        note.log()
    result = _result(predictor, predicted, threshold, options)
    _write(output, result)


def _check(folders: Sequence[Path], output: Path, options: Options) -> None:
    for folder in folders:
        RunDir(folder).require("summary.json", "preprocessing.json", "predictions/val.csv")
        if output.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--output={output}: is in the run {folder}, which is not written; choose another"
            )
    for field, _ in options.overrides:
        section, _, name = field.partition(".")
        if section != "data":
            raise UserError(f"--config.{field}: goes with training; give fields of data only")
        if name in _OF_THE_RUN:
            raise UserError(f"--config.{field}: is that of the run in an external test; remove it")


def _threshold(predictor: Predictor, options: Options) -> float | None:
    """Returns the threshold of the positive class, chosen on the validation of the runs."""
    if predictor.num_classes != 2:
        return None
    name, value = thresholds.check(options.threshold)
    if name == "fixed":
        return value
    if options.tta:
        raise UserError(
            f"--threshold={options.threshold}: is chosen on validation predictions, which are made "
            "without --tta; give a number, or leave out --tta"
        )
    val = recorded.predictions(predictor.members, "val")
    column = val.classes.index(predictor.positive)
    return thresholds.choose(options.threshold, val.labels == column, val.probabilities[:, column])


def _result(
    predictor: Predictor, predicted: ExternalPredictions, threshold: float | None, options: Options
) -> Result:
    logging.info("scoring %d images of %s", len(predicted.predictions), predicted.records.name)
    identical, not_compared = overlap(
        predictor.members[0], predicted.records, predicted.mapped.rows
    )
    if identical:
        logging.warning(
            "%d images are identical to training images of the run (first: %s): the scores are "
            "too high",
            len(identical),
            identical[0],
        )
    attributes = predicted.records.attributes
    return Result(
        runs=[_facts(predictor, index) for index in range(len(predictor.members))],
        warnings=_warnings(predictor),
        predicted=predicted,
        test=predicted.test(),
        at_threshold=None if threshold is None else predicted.test(threshold),
        criterion=options.threshold,
        tta=options.tta,
        calibrated=_calibrated(predictor, predicted, options),
        unlike=_unlike(predictor, predicted),
        identical=identical,
        not_compared=not_compared,
        subgroups=subgroups(predicted.predictions, attributes, predictor.positive),
    )


def _facts(predictor: Predictor, index: int) -> dict[str, Any]:
    """Returns what identifies a run: `compare` recognises it by its predictions on test."""
    member = predictor.members[index]
    path = member.workdir / "predictions" / "test.csv"
    digest = ""
    if path.is_file():
        digest = hashlib.sha256(storage.read_bytes(path, MAX_BYTES)).hexdigest()
    name = member.workdir.absolute().name
    return {"run": name, "step": member.step, "test_predictions_sha256": digest}


def _warnings(predictor: Predictor) -> list[str]:
    summaries = [RunDir(folder).summary() for folder in predictor.workdirs]
    sentences = []
    if any(summary["synthetic"] for summary in summaries):
        sentences.append("The run was trained and tested on SYNTHETIC cells.")
    if any(summary["leaky"] for summary in summaries):
        sentences.append("The run's own test is LEAKY: its scores are too high.")
    return sentences


def _calibrated(
    predictor: Predictor, predicted: ExternalPredictions, options: Options
) -> Calibrated | None:
    """Returns the predictions at the temperatures of the runs' validation."""
    if options.tta:  # the temperatures fit predictions without views
        return None
    temperatures = []
    for member in predictor.members:
        val = RunDir(member.workdir).predictions("val")
        temperatures.append(calibration.temperature(val.labels, val.probabilities))

    def scaled(tables: Sequence[np.ndarray], p: Predictions) -> Predictions:
        pairs = zip(tables, temperatures, strict=True)
        average = mean([calibration.rescale(table, t) for table, t in pairs])
        return dataclasses.replace(p, probabilities=average)

    external = scaled([output.probabilities for output in predicted.outputs], predicted.predictions)
    own_scaled = None
    if predicted.own_predictions is not None:
        tables = [RunDir(m.workdir).predictions("test").probabilities for m in predictor.members]
        own_scaled = scaled(tables, predicted.own_predictions)
    sets = {
        "external test, as given": predicted.predictions,
        "external test, scaled": external,
        "own test, as given": predicted.own_predictions,
        "own test, scaled": own_scaled,
    }
    values = {
        name: scores(p.labels, p.probabilities, p.classes, predicted.positive).values
        for name, p in sets.items()
        if p is not None
    }
    return Calibrated(temperatures, external, values)


def _unlike(predictor: Predictor, predicted: ExternalPredictions) -> Unlike | None:
    """Returns which images are unlike the training images; None if the runs cannot tell."""
    distances = out_of_distribution.read_all(predictor)
    if not distances:
        return None
    pairs = zip(distances, predicted.outputs, strict=True)
    values = np.stack([d.score(output.features) for d, output in pairs]).mean(axis=0)
    flagged: Bool[np.ndarray, " n"] = values > 1
    return Unlike(values, int(flagged.sum()), float(flagged.mean()))


def _write(output: Path, result: Result) -> None:
    document = external_page.document(result)
    numbers = json.dumps(content(result), indent=1, allow_nan=False)
    folder = RunDir(output)
    for picture in document.pictures():
        save(picture.figure, folder.path("figures"), picture.name)
    more = {"their_label": result.predicted.mapped.theirs.tolist()}
    if result.unlike is not None:
        more["unlikeness"] = [f"{value:.6g}" for value in result.unlike.values]
    result.predicted.predictions.write(output / "predictions.csv", more)
    write_atomic(output / "summary.md", page.markdown(document))
    # Last: a folder that has it is complete.
    write_atomic(output / FILE, numbers + "\n")
    print(f"\n{result.test}\n")
    for sentence in external_page.checks(result):
        print(sentence)
    print(f"External test: {output / 'summary.md'}; all numbers: {output / FILE}")
