"""HehrAml: leucocytes of patients with four genetic types of AML and of controls, from Munich."""

import csv
import io

from ml_collections import ConfigDict

from leukjax.data.archive import File, Files
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of
from leukjax.errors import UserError

COUNTS = {
    "CBFB_MYH11": 17_212,
    "NPM1": 17_710,
    "PML_RARA": 11_584,
    "RUNX1_RUNX1T1": 14_403,
    "control": 20_305,
}
_SEXES = {"1": "female", "2": "male"}
_MAX_BYTES = 2**22  # of metadata.csv


class HehrAml(PublishedFiles):
    """AML-Cytomorphology_MLL_Helmholtz: 81,214 single cells of 189 people, labelled by person."""

    published = Published(
        name="hehr_aml",
        title="AML-Cytomorphology_MLL_Helmholtz",
        images=81_214,
        classes=COUNTS,
        citation=(
            "Hehr, M. et al. (2023). A morphological dataset of white blood cells from patients "
            "with four different genetic AML entities and non-malignant controls. The Cancer "
            "Imaging Archive, doi 10.7937/6PPE-4020."
        ),
        layout="data/PML_RARA/<patient>/image_0.tif and the like",
        caveats=(
            "the label is the patient's, and most cells of a patient look like anyone's: judge by "
            "the scores of subjects",
        ),
    )
    citation = published.citation

    def __init__(self, root: str, *, positive: str = "", bad_images: str = "error") -> None:
        """As `PublishedFiles`; metadata.csv, if it is there, gives sex and age as attributes.

        Raises:
          UserError: as there, or metadata.csv cannot be read.
        """
        super().__init__(root, positive=positive, bad_images=bad_images)
        people = _people(self.files)
        self.attributes = {
            name: {entry.id: people.get(entry.subject, ("", ""))[k] for entry in self.entries}
            for k, name in enumerate(("sex", "age"))
            if any(values[k] for values in people.values())
        }

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name.lower(): name for name in COUNTS})
        folders = file.location.split("/")[:-1]
        if label is None or folders[-1].lower() == label.lower():
            return None  # not in the folder of a patient
        return Place(label, subject=folders[-1])


@names_config_fields
def make(data: ConfigDict) -> HehrAml:
    """Returns the data set of the `data` section of a config."""
    return HehrAml(data.root, positive=data.positive)


def _people(files: Files) -> dict[str, tuple[str, str]]:
    """Returns sex and age, in bands of ten years, of each patient of metadata.csv."""
    tables = [file for file in files.files if file.name == "metadata.csv"]
    if not tables:
        return {}
    path = tables[0].path
    if tables[0].size > _MAX_BYTES:
        raise UserError(f"{path}: has more than {_MAX_BYTES:,} bytes: download it again")
    text = files.read(path).decode("utf-8-sig", errors="replace")
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        header = rows[0].keys() if rows else ()
        columns = [
            next(name for name in header if name and name.startswith(start))
            for start in ("patient_id", "sex", "age")
        ]
    except (ValueError, csv.Error, StopIteration) as error:
        raise UserError(
            f"{path}: is no CSV with the columns patient_id, sex…, age ({error}): download it again"
        ) from error
    people = {}
    for row in rows:
        patient, sex, age = ((row[column] or "").strip() for column in columns)
        people[patient] = (_SEXES.get(sex.removesuffix(".0"), ""), _band(age))
    return people


def _band(age: str) -> str:
    try:
        decade = int(float(age)) // 10 * 10
    except (ValueError, OverflowError):
        return ""
    return f"{decade}-{decade + 9}" if 0 <= decade < 150 else ""
