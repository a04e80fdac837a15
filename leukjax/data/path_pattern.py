"""Searches regular expressions in the paths of images, in a process with a time limit.

An expression may come from the config of another person's run, and may take a time that doubles
with each letter, as (a+)+$ does.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from leukjax.errors import UserError

_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
groups = [match and match[1] or "" for match in map(re.compile(pattern).search, names)]
json.dump(groups, sys.stdout)
"""
_SEARCH_SECONDS = 10.0  # plus 0.1 ms per name; a typical pattern takes 1 us


def search(kind: str, expression: str, locations: Sequence[str]) -> list[str]:
    """Returns what the first group of an expression matches in each path.

    Args:
      kind: what it finds ("subject"); the argument that messages name.
      expression: regular expression with a group.
      locations: paths below the root.

    Raises:
      UserError: the expression is malformed, has no group, takes too long, or finds nothing in a
        path.
    """
    try:
        pattern = re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{kind}: {expression!r} is not a regular expression ({error})") from error
    if not pattern.groups:
        raise UserError(f"{kind}: the expression has no group: put the {kind} in parentheses")
    values = _first_groups(kind, expression, locations)
    missing = [location for location, value in zip(locations, values, strict=True) if not value]
    if missing:
        raise UserError(
            f"{kind}: {expression!r} finds no {kind} in {missing[0]} ({len(missing):,} of "
            f"{len(locations):,} images): change the expression or move the files"
        )
    return values


def _first_groups(kind: str, expression: str, locations: Sequence[str]) -> list[str]:
    """Returns the first group of the match in each path; "" without a match."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],  # isolated, without site-packages: quick
            input=json.dumps([expression, locations]),
            capture_output=True,
            encoding="utf-8",
            timeout=_SEARCH_SECONDS + 1e-4 * len(locations),
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{kind}: {expression!r} takes too long on {len(locations):,} paths; "
            "avoid a repetition inside a repeated group, as in (a+)+"
        ) from None
    except subprocess.CalledProcessError as error:
        line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{kind}: {expression!r} cannot be searched ({line})") from error
    return json.loads(done.stdout)
