"""The predictions that runs recorded when they were trained: of validation and of test."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from leukjax.errors import UserError
from leukjax.metrics import calibration
from leukjax.metrics.predictions import Predictions, mean
from leukjax.predict.member import Member
from leukjax.rundir import RunDir


def predictions(members: Sequence[Member], part: str) -> Predictions:
    """Returns the mean of what runs predicted on a part, each at its temperature.

    Args:
      members: the runs.
      part: "val" or "test".

    Raises:
      UserError: a run has no such predictions, or the runs have different images in this part (one
        run may have trained on what another is tested on).
    """
    tables = [_of_member(member, part) for member in members]
    first = tables[0]
    for member, table in zip(members, tables, strict=True):
        same = np.array_equal(table.id, first.id) and np.array_equal(table.labels, first.labels)
        if not same:
            verb = {"val": "validated", "test": "tested"}[part]
            raise UserError(
                f"{member.workdir} and {members[0].workdir} were {verb} on different images; give "
                "runs of one split"
            )
    if len(tables) == 1:
        return first
    average = mean([table.probabilities for table in tables])
    return dataclasses.replace(first, probabilities=average)


def _of_member(member: Member, part: str) -> Predictions:
    run = RunDir(member.workdir)
    if not run.has_predictions(part):
        raise UserError(f"{member.workdir}: has no predictions/{part}.csv; train to the end")
    table = run.predictions(part)
    if table.classes != member.classes:
        raise UserError(
            f"{member.workdir}/predictions/{part}.csv: has other classes than the model"
        )
    if member.temperature == 1.0:
        return table
    rescaled = calibration.rescale(table.probabilities, member.temperature)
    return dataclasses.replace(table, probabilities=rescaled)
