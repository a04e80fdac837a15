"""What a check answers: pass, fail or cannot tell, with the arithmetic, and never more."""

import dataclasses
from typing import Literal

Verdict = Literal["pass", "fail", "cannot_tell"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One answer of one check.

    Attributes:
        check: name of the check, as in `paper_checks.CHECKS`.
        where: the value or table that it speaks of.
        verdict: fail means that the printed numbers cannot all be what they are said to be; why
            they are not is nothing that arithmetic knows.
        arithmetic: the computation, in numbers.
    """

    check: str
    where: str
    verdict: Verdict
    arithmetic: str


def answer(check: str, where: str, holds: bool | None, arithmetic: str) -> Finding:
    """A finding from a truth value; None: it cannot be told."""
    verdict: Verdict = "cannot_tell" if holds is None else "pass" if holds else "fail"
    return Finding(check, where, verdict, arithmetic)
