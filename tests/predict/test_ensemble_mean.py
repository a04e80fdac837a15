"""Every command averages an ensemble in float64, and no command outputs NaN."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from leukjax import command
from leukjax.checkpoints import reader
from leukjax.compare import load_results
from leukjax.demo.predictors import PagePredictor
from leukjax.errors import UserError
from leukjax.evaluate import rescore
from leukjax.explain import cli
from leukjax.metrics import predictions
from leukjax.metrics.predictions import Predictions
from leukjax.predict import batching, recorded
from leukjax.predict import cli as predict
from leukjax.predict import predictor as predictors
from leukjax.predict.member import Outputs
from leukjax.predict.predictor import Predictor

# Three float32 members whose mean in float32 differs from that in float64.
MEMBERS = np.random.default_rng(0).dirichlet([1, 1, 1], (3, 40)).astype(np.float32)
EXACT = MEMBERS.astype(np.float64).mean(axis=0)


def test_the_members_distinguish_the_precisions():
    assert (MEMBERS.mean(axis=0) != EXACT).any()
    assert (MEMBERS.mean(axis=0, dtype=np.float64).astype(np.float32) != EXACT).any()
    assert predictions.mean(list(MEMBERS)).dtype == np.float64


def tables() -> list[Predictions]:
    ids = np.array([f"{number:02}" for number in range(40)])
    return [
        Predictions(("a", "b", "c"), ids, ids, ids, np.zeros(40, np.int32), member)
        for member in MEMBERS
    ]


def outputs() -> list[Outputs]:
    return [Outputs(p, np.zeros((40, 2), np.float32), p[None]) for p in MEMBERS]


def predictor() -> Predictor:
    def member(output: Outputs):
        return types.SimpleNamespace(
            classes=("a", "b", "c"),
            workdir=Path("run"),
            batch_size=40,
            image_size=8,
            temperature=1.0,
            submit=lambda images, tta: lambda: output,
            outputs=lambda images, tta: output,
        )

    return Predictor(tuple(map(member, outputs())))


def of_page() -> np.ndarray:
    heatmaps = types.SimpleNamespace(maps=lambda columns, targets: np.zeros((40, 8, 8), np.float32))
    page = PagePredictor(predictor(), None, (), heatmaps)  # type: ignore[arg-type]
    images = [(np.zeros((8, 8, 3), np.uint8),) * 3] * 40
    return np.stack([answer.probabilities for answer in page.predict(images)])


def of_threshold(monkeypatch) -> np.ndarray:
    seen = []
    validation = iter(tables())
    monkeypatch.setattr(recorded, "_of_member", lambda member, part: next(validation))
    module = predictors.thresholds
    monkeypatch.setattr(module, "choose_confidence", lambda _, p, *__: seen.append(p))
    predictor().choose_threshold(0.1)
    return seen[0]


def test_every_command_computes_the_same_mean(monkeypatch):
    found = {
        "predict": np.stack([p for p, _ in batching._results(outputs(), ())]),
        "predict --max_error": of_threshold(monkeypatch),
        "leukjax.load": predictor().predict(np.zeros((40, 8, 8, 3), np.uint8)),
        "evaluate": rescore.mean(tables()).probabilities,
        "compare": load_results.mean(tables()).probabilities,
        "demo": of_page(),
    }
    for name, probabilities in found.items():
        assert probabilities.dtype == np.float64, name
        np.testing.assert_array_equal(probabilities, EXACT, err_msg=name)


def test_compare_reads_the_exact_probabilities_of_a_run(finished_run):
    """Nine digits keep every bit of a float32."""
    run = load_results.read_run(finished_run)
    own = predictions.read(finished_run / "predictions" / "test.csv")
    order = np.argsort(own.id, kind="stable")
    np.testing.assert_array_equal(run.test.probabilities, own.probabilities[order])


@pytest.fixture
def nan_run(trained_run, monkeypatch) -> Path:
    """A run whose checkpoint contains a NaN."""
    step, values = reader.for_evaluation(trained_run / "checkpoints", lower_is_better=False)
    values["params"]["fc"]["bias"] = np.full(2, np.nan, np.float32)
    monkeypatch.setattr(reader, "for_evaluation", lambda *_, **__: (step, values))
    return trained_run


def start(module, *arguments: object) -> int:
    module.FLAGS.unparse_flags()
    for name in module.FLAGS:
        module.FLAGS[name].unparse()
    return command.status(module.main, module.FLAGS, list(map(str, arguments)), doc=None)


def test_a_prediction_that_is_not_finite_is_an_error(nan_run, tmp_path, capsys):
    from PIL import Image

    image = tmp_path / "cell.png"
    Image.fromarray(np.full((30, 30, 3), 90, np.uint8)).save(image)
    out = tmp_path / "out"
    assert start(predict, f"--workdir={nan_run}", image, f"--output={out}/p.csv") == 1
    assert "none of the files (1) has a prediction" in capsys.readouterr().err
    text = (out / "p.csv").read_text()
    assert "no finite probability" in text
    assert ",nan" not in text
    arguments = (f"--workdir={nan_run}", image, f"--output={out}/e", "--method=gradcam")
    assert start(cli, *arguments) == 1
    assert "none of the files (1) has a prediction" in capsys.readouterr().err
    assert ",nan" not in (out / "e" / "explanations.csv").read_text()
    import leukjax

    model = leukjax.load(nan_run)
    with pytest.raises(UserError, match="no finite probability for 1 of 1 images"):
        model.predict([image])


def test_one_prediction_that_is_not_finite_does_not_affect_others():
    row = batching.Row("a.png")
    good = batching._filled(row, np.array([0.5, 0.5]), 0.1)
    bad = batching._filled(row, np.array([np.nan, 0.5]), 0.1)
    assert dataclasses.astuple(good)[2:] == (0.1, (), "")
    assert bad.probabilities is None
    assert bad.error == "a.png: the network gives no finite probability"
