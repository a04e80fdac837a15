"""The learning-rate range test."""

import json

import numpy as np
import pytest

from leukjax import command
from leukjax.lr_find import cli, range_test
from leukjax.lr_find.range_test import RangeTest


def _status(*arguments):
    cli.FLAGS.unparse_flags()
    return command.status(cli.main, cli.FLAGS, list(arguments), doc=cli.__doc__)


FIELDS = (
    "--config=cnn",
    "--config.data.smears_subjects=12",
    "--config.data.smears_cells=6",
    "--config.data.image_size=16",
    "--config.model.width=8",
    "--config.train.batch_size=16",
)


@pytest.mark.smoke("lr_find")
def test_a_suggestion_is_printed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "found"
    rates = ("--steps=24", "--low=1e-5", "--high=1000")
    assert _status(*FIELDS, *rates, f"--workdir={folder}") == 0
    found = json.loads((folder / "lr_find.json").read_text())
    printed = capsys.readouterr().out
    assert f"--config.optimizer.learning_rate={found['suggestion']:g}\n" in printed
    assert found["diverged"]
    count = len(found["learning_rate"])
    assert 5 < count < 24
    assert len(found["loss"]) == len(found["smoothed"]) == count
    np.testing.assert_allclose(found["learning_rate"], np.geomspace(1e-5, 1e3, 24)[:count])
    # The loss at the start does not depend on the rate, and 0.69 is that of a coin.
    assert found["loss"][0] == pytest.approx(np.log(2), abs=0.4)
    assert (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_find.json", "lr_find.png"]


class Descent:
    """A trainer of ``(w - s)^2 / 2`` for a noisy s, which explodes at rates above 2."""

    def __init__(self):
        self.settings, self.sharding, self.w, self.rate = self, None, 1.0, 0.0

    learning_rate = property(lambda self: self)

    def init_state(self):
        return self

    def batches(self):
        return (0.1 * (-1) ** step for step in range(10**6))

    def replace(self, settings=None, learning_rate=None):
        self.rate = self.rate if learning_rate is None else float(learning_rate)
        return self

    def train_step(self, state, batch):
        slope = self.w - batch
        self.w -= self.rate * slope
        return self, {"loss": slope**2 / 2}


def test_the_test_ends_where_descent_explodes():
    rates = np.geomspace(1e-3, 100, 200).tolist()
    found = range_test.measure(Descent(), rates)
    w, losses = 1.0, []
    for step, rate in enumerate(found.rates):
        slope = w - 0.1 * (-1) ** step
        losses.append(slope**2 / 2)
        w -= rate * slope
    np.testing.assert_allclose(found.losses, losses, rtol=1e-3)
    assert found.diverged
    assert 1 < found.rates[-1] < 3
    assert 0.01 < found.suggestion < 0.2


def test_smoothing_and_suggestion():
    found = RangeTest([1e-4, 1e-3, 1e-2, 1e-1], [2.0, 1.0, 0.5, 9.0], False)
    weights = [np.array([0.9**k for k in range(n)])[::-1] for n in range(1, 5)]
    expected = [np.average(found.losses[: len(w)], weights=w) for w in weights]
    np.testing.assert_allclose(found.smoothed, expected)
    assert found.suggestion == pytest.approx(1e-3)
    assert RangeTest([1e-4, 1e-3], [1.0, 2.0], True).suggestion is None
    assert range_test.figure(found, []).axes[0].xaxis.get_major_formatter()(1e-3) == "0.001"


@pytest.mark.parametrize(
    ("arguments", "expected", "says"),
    [
        (("--low=1", "--high=0.1"), 1, "--low=1 --high=0.1: must be above 0, in this order"),
        (("--steps=2",), 2, "steps"),
    ],
)
def test_mistakes(tmp_path, capsys, arguments, expected, says):
    assert _status("--config=cnn", f"--workdir={tmp_path / 'x'}", *arguments) == expected
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_link_is_not_followed(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "lr_find.json").symlink_to(tmp_path / "elsewhere")
    assert _status(*FIELDS, f"--workdir={tmp_path / 'x'}") == 1
    assert "is a symbolic link" in capsys.readouterr().err
