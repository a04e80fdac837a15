"""`RunDir`: the only code that knows the files of a work directory."""

from leukjax.rundir.run_dir import (
    CONFIG,
    DATA,
    LEDGER,
    LEDGER_OF_STUDY,
    METRICS,
    PREPROCESSING,
    SPLIT,
    STARTS,
    SUMMARY,
    UNLIKENESS,
    RunDir,
)
from leukjax.rundir.schema import check_fields

__all__ = [
    "CONFIG",
    "DATA",
    "LEDGER",
    "LEDGER_OF_STUDY",
    "METRICS",
    "PREPROCESSING",
    "SPLIT",
    "STARTS",
    "SUMMARY",
    "UNLIKENESS",
    "RunDir",
    "check_fields",
]
