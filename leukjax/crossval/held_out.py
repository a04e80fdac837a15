"""The held-out part: opened once a model, for the ensemble of its runs, and every time counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leukjax.data.split import HELD_OUT
from leukjax.evaluate.rescore import mean, predict_again
from leukjax.rundir import RunDir


def table(study: Path, model: str) -> Path:
    """Where the ensemble's predictions are, or will be."""
    return study / "predictions" / "test" / f"{model}.csv"


def score(
    study: Path, model: str, folders: list[Path], overrides: Sequence[tuple[str, Any]] = ()
) -> None:
    """Write the mean probabilities of a model's runs on the held-out part.

    Each opening is a line of ``ledger.jsonl``, written before the part is read: one that is
    interrupted and done again counts twice. The members' own predictions of the same opening go to
    ``predictions/test_members``.

    Args:
      study: folder of the study.
      model: its name.
      folders: work directories of its runs, all finished.
      overrides: where the data are, of this start of the study.
    """
    if table(study, model).exists():
        return
    RunDir(study).record_study_access(model, HELD_OUT, len(folders))
    members = [predict_again(folder, HELD_OUT, overrides=overrides) for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        member.write(study / "predictions" / "test_members" / model / f"{folder.name}.csv")
    mean(members).write(table(study, model))
