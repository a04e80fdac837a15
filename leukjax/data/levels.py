"""Recognises folders that are parts of a data set where its classes are expected."""

import re
from collections.abc import Mapping, Sequence

from leukjax.data.parts import official_parts, part_of
from leukjax.data.source import WARNING, Note
from leukjax.errors import UserError

_WORD = "train|training|val|valid|validation|dev|test|testing|eval|evaluation|holdout|held[ _-]?out"
_ENDING = "set|data|images?|imgs?|split|part|simple|[a-z]|[0-9]{1,2}"
# train, TestA, test_set, "Validation data"; fold_0, fold1, cv-1, part 2.
_PART = re.compile(
    rf"(?:{_WORD})(?:[ _-]?(?:{_ENDING}))?|(?:k?fold|cv|part|partition|split|subset)[ _-]?[0-9]+",
    re.IGNORECASE,
)
# In longer names (C-NMC_training_data beside C-NMC_test_prelim_phase_data).
_TRAIN = re.compile(r"(?<![a-z])train(?:ing)?(?:set|data)?(?![a-z])", re.IGNORECASE)
_OTHER = re.compile(r"(?<![a-z])(?:val|valid|validation|test|testing)(?![a-z])", re.IGNORECASE)


def check_names(locations: Sequence[str], root: str) -> None:
    """Refuses a root whose folders have the names of parts or folds.

    At least two have such names, or one is the training part and holds two folders or more.

    Args:
      locations: paths of the images below the root.
      root: for the message.

    Raises:
      UserError: the root is a level too high; the message says what to set.
    """
    folders = _folders(locations)
    parts = {name for name in folders if _PART.fullmatch(name)}
    if any(map(_TRAIN.search, folders)) and any(map(_OTHER.search, folders)):
        parts |= {name for name in folders if _TRAIN.search(name) or _OTHER.search(name)}
    train_alone = any(_TRAIN.search(name) and len(folders[name] - {""}) > 1 for name in parts)
    if len(parts) > 1 or train_alone:
        raise UserError(_too_high(folders, sorted(parts), root))


def check_sub_folders(
    locations: Sequence[str], subjects: Mapping[str, str], positive: str, root: str
) -> list[Note]:
    """Refuses a root whose folders all hold the same sub-folders, which then are the classes.

    Not if `positive` names one of the folders, which makes them classes; and not if the sub-folders
    are the subjects, or all have a digit in their names ("10x" and "40x", "patient_1" and
    "patient_2") while the folders above them do not: these may well divide classes, and a note
    says so.

    Args:
      locations: paths of the images below the root.
      subjects: subject of each location.
      positive: `data.positive`.
      root: for the message.

    Raises:
      UserError: the root is a level too high; the message says what to set.
    """
    folders = _folders(locations)
    if len(folders) < 2 or positive in folders:
        return []
    if any(len(below) < 2 or "" in below for below in folders.values()):
        return []
    if all(subjects[location] == location.split("/")[1] for location in locations):
        return []
    below = next(iter(folders.values()))
    if any(others != below for others in folders.values()):
        return _note_on_other_folders(folders, root)
    if all(map(_numbered, below)):
        return [
            Note(
                WARNING,
                f"every class has the same sub-folders ({_few(sorted(below))}): if these are the "
                "classes, data.root is a level too high",
            )
        ]
    names = sorted(folders)
    raise UserError(
        f"{_too_high(folders, names, root)}. If {_few(names)} are the classes, say so by "
        f"--config.data.positive={names[-1]}, or rename the folders in them"
    )


def _note_on_other_folders(folders: Mapping[str, set[str]], root: str) -> list[Note]:
    """A warning if sub-folders may be classes: each in one folder, few, and without numbers."""
    below = set.union(*folders.values())
    if len(below) < sum(map(len, folders.values())) or len(below) > 12 * len(folders):
        return []
    if any(map(_numbered, below)):  # subjects, days or fields
        return []
    names = sorted(folders)
    held = "; ".join(_few(sorted(folders[name])) for name in names[:3])
    return [
        Note(
            WARNING,
            f"{_few(names)} are taken as the classes, and hold only folders ({held}): if these are "
            f"the classes, data.root is a level too high, e.g. --config.data.root="
            f"{root.rstrip('/')}/{names[0]}",
        )
    ]


def _folders(locations: Sequence[str]) -> dict[str, set[str]]:
    """Returns the sub-folders of each folder below the root; "" if images are directly in it."""
    folders: dict[str, set[str]] = {}
    for location in locations:
        name, _, rest = location.partition("/")
        sub_folder, slash, _ = rest.partition("/")
        if rest:
            folders.setdefault(name, set()).add(sub_folder if slash else "")
    return folders


def _numbered(name: str) -> bool:
    return any(character.isdigit() for character in name)


def _too_high(folders: Mapping[str, set[str]], parts: Sequence[str], root: str) -> str:
    below = sorted(set.union(*(folders[name] for name in parts)) - {""})
    first = next((name for name in parts if _TRAIN.search(name)), parts[0])
    text = (
        f"data.root: {root} holds {_few(parts)}"
        + (f", with {_few(below)} in them" if below else "")
        + ": these look like parts of a data set, not like its classes. Set the root one level "
        f"lower, e.g. --config.data.root={root.rstrip('/')}/{first}"
    )
    if root.lower().endswith(".zip"):
        text += " after unpacking the zip"
    if official_parts(folders) and all(map(part_of, folders)) and below:
        text += ", or keep their split with --config.data.part_from=folder"
    if {"all", "hem"} <= set(below):
        text += ", or read C-NMC 2019 as the data set cnmc"
    return text


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
