"""`RunDir`: the only code that knows the files of a work directory."""

from leukjax.rundir.run_dir import LEDGER_OF_STUDY as LEDGER_OF_STUDY
from leukjax.rundir.run_dir import PREPROCESSING as PREPROCESSING
from leukjax.rundir.run_dir import SUMMARY as SUMMARY
from leukjax.rundir.run_dir import UNLIKENESS as UNLIKENESS
from leukjax.rundir.run_dir import RunDir as RunDir
from leukjax.rundir.schema import check_fields as check_fields
