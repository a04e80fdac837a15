"""Every check of a paper, by name."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from leukjax.audit import curve_checks, data_checks, score_checks, statement_checks
from leukjax.audit.finding import Finding
from leukjax.audit.paper import Paper
from leukjax.storage import open_output

Check = Callable[[Paper], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        data_checks.counts_sum,
        data_checks.ratio_claim,
        data_checks.dataset_fingerprint,
        data_checks.unlabeled_phase,
        data_checks.resize_direction,
        score_checks.f1_identity,
        score_checks.grim,
        score_checks.metric_feasibility,
        score_checks.below_majority,
        curve_checks.column_affine,
        curve_checks.curve_linearity,
        curve_checks.identical_columns,
        curve_checks.rank_flip,
        curve_checks.text_agrees,
        curve_checks.loss_level,
        statement_checks.starred_values,
        statement_checks.arch_count,
        statement_checks.missing_items,
    )
}


def audit(paper: Paper) -> list[Finding]:
    """All findings, check by check; a check with nothing to look at says that it cannot tell."""
    findings = []
    for name, check in CHECKS.items():
        found = list(check(paper))
        findings += found or [Finding(name, "paper", "cannot_tell", "the numbers are not printed")]
    return findings


def write(findings: list[Finding], path: Path) -> None:
    """Write ``{"checks": [{"check", "where", "verdict", "arithmetic"}]}``."""
    content = {"checks": [dataclasses.asdict(finding) for finding in findings]}
    with open_output(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def report(paper: Paper, findings: list[Finding]) -> str:
    """The findings for people: a line each, and how many of each verdict."""
    words = {"pass": "pass", "fail": "FAIL", "cannot_tell": "cannot tell"}
    lines = [f"{words[f.verdict]:<11}  {f.check:<19}  {f.where}: {f.arithmetic}" for f in findings]
    count = {name: sum(f.verdict == name for f in findings) for name in words}
    # The paper's own texts may hold what moves the cursor of a terminal.
    lines = ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
    return "\n".join(
        [
            "".join(c if c.isprintable() else "?" for c in paper.title),
            "",
            *lines,
            "",
            f"{count['pass']} pass, {count['fail']} fail, {count['cannot_tell']} cannot be told. "
            "A fail says that printed numbers cannot all be what they are said to be, and not why.",
        ]
    )
