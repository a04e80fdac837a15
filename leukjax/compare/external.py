"""External tests in a comparison: which model each is of, and their place in the model cards."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from leukjax import storage, terminal
from leukjax.compare.load_results import Entry
from leukjax.errors import UserError
from leukjax.metrics.predictions import MAX_BYTES
from leukjax.report import external
from leukjax.report.external import External
from leukjax.report.model_card import with_external_tests

CARD = "model_card.md"
_MAX_CARD = 2**20  # bytes


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[External]]:
    """Returns the arguments that are models, and the external tests among the others.

    Raises:
      UserError: an external test is damaged, or there are external tests only.
    """
    folders = [argument for argument in arguments if external.is_external(argument)]
    models = [argument for argument in arguments if argument not in folders]
    if not models:
        raise UserError(f"{folders[0]}: is an external test; give the runs that it tests as well")
    return models, [external.read(folder) for folder in folders]


def by_model(entries: Sequence[Entry], tests: Sequence[External]) -> dict[str, list[External]]:
    """Returns the external tests of each model, which is known by its predictions on its own test.

    A test of runs that are not compared is listed under their names.
    """
    if not tests:
        return {}
    names = {frozenset(_digests(entry)): entry.name for entry in entries if entry.runs}
    tests_of: dict[str, list[External]] = {}
    for test in tests:
        runs = "+".join(name for name, _ in test.runs) + " (not compared here)"
        digests = frozenset(digest for _, digest in test.runs)
        tests_of.setdefault(names.get(digests, runs), []).append(test)
    return tests_of


def as_json(tests: Mapping[str, Sequence[External]]) -> list[dict[str, Any]]:
    """Returns the external tests for results.json."""
    fields = ("data", "images", "groups", "left_out", "absent", "by_image", "own_scores", "drop")
    return [
        {"model": model, "folder": test.folder.absolute().name}
        | {
            "own" if name == "own_scores" else name: content
            for name, content in dataclasses.asdict(test).items()
            if name in fields
        }
        for model, of_model in tests.items()
        for test in of_model
    ]


def model_cards(
    entries: Sequence[Entry], tests: Mapping[str, Sequence[External]]
) -> dict[str, str]:
    """Returns the model cards of runs with external tests: file name -> text.

    A card is that of the run, with the external tests where it says that there are none.
    """
    cards: dict[str, str] = {}
    for entry in entries:
        if entry.name not in tests:
            continue
        for run in entry.runs:
            try:
                card = storage.read_text(run.folder / CARD, _MAX_CARD)
            except (OSError, ValueError) as error:
                logging.info("%s: no model card (%s)", run.folder, error)
                continue
            sentences = [external.sentence(test) for test in tests[entry.name]]
            name = re.sub(r"[^A-Za-z0-9_-]", "_", run.folder.absolute().name)[:100]
            name = f"{name}-{len(cards)}" if f"{name}.md" in cards else name
            cards[f"{name}.md"] = with_external_tests(terminal.escape(card), sentences)
    return cards


def _digests(entry: Entry) -> list[str]:
    paths: list[Path] = [run.folder / "predictions" / "test.csv" for run in entry.runs]
    return [hashlib.sha256(storage.read_bytes(path, MAX_BYTES)).hexdigest() for path in paths]
