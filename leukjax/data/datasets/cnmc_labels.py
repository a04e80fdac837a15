"""The labels file of C-NMC's preliminary test phase."""

import csv
import io
import re

from leukjax.data.archive import File, Files
from leukjax.data.datasets.cnmc_names import OF_LABELS_FILE, PRELIMINARY, PUBLISHED, parse
from leukjax.errors import UserError

_IMAGES = sum(images for images, _ in PUBLISHED[PRELIMINARY].values())


def official_names(files: Files, preliminary: dict[str, File], notes: list[str]) -> dict[str, str]:
    """Official name of each preliminary file, from the labels CSV; {} if there is no such file.

    Args:
      files: everything below the root.
      preliminary: the preliminary images by file name.
      notes: gets a sentence where the file is missing, or names images that are not there.

    Raises:
      UserError: no readable CSV, a row that is not consistent, two rows for an image, or none.
    """
    tables = [
        file for file in files.files if file.suffix == ".csv" and "label" in file.name.lower()
    ]
    if not tables:
        if preliminary:
            notes.append(
                f"{len(preliminary):,} preliminary images are not labelled: "
                "C-NMC_test_prelim_phase_data_labels.csv is missing"
            )
        return {}
    contents = {files.read(file.path) for file in tables}
    path = tables[0].path
    if len(contents) > 1:
        raise UserError(f"{path}: differs from {tables[1].path}: remove the wrong one")
    try:
        text = contents.pop().decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no readable CSV ({error}): download it again") from error
    official: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        try:
            patient, name, label = (
                row[column].strip() for column in ("Patient_ID", "new_names", "labels")
            )
        except (KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: line {number} lacks one of the columns Patient_ID, new_names, labels: "
                "download it again"
            ) from error
        parsed = parse(patient)
        if parsed is None or OF_LABELS_FILE.get(label) != parsed.label:
            raise UserError(
                f"{path}: line {number}: {patient!r} with label {label!r} is no pair of C-NMC "
                "(1 = all, 0 = hem): download it again"
            )
        numbered = re.fullmatch(r"([0-9]{1,9})\.bmp", name)
        if numbered is None or not 1 <= int(numbered[1]) <= _IMAGES:
            raise UserError(
                f"{path}: line {number}: {name!r} is none of the preliminary files 1.bmp to "
                f"{_IMAGES}.bmp: mend the row"
            )
        if name in official:
            raise UserError(f"{path}: line {number}: {name} has two rows: remove one")
        official[name] = patient
    missing = sorted(set(preliminary) - set(official))
    if missing:
        raise UserError(
            f"{path}: has no row for {missing[0]} ({len(missing)} such images): "
            "download the file again or remove the images"
        )
    absent = len(set(official) - set(preliminary))
    if absent:
        notes.append(
            f"{absent:,} of {len(official):,} rows of {path} name images that are not there"
        )
    return official
