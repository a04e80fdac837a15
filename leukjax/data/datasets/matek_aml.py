"""MatekAml: leucocytes of patients with acute myeloid leukaemia and of controls, from Munich."""

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of

COUNTS = {
    "BAS": 79, "EBO": 78, "EOS": 424, "KSC": 15, "LYA": 11, "LYT": 3937, "MMZ": 15, "MOB": 26,
    "MON": 1789, "MYB": 42, "MYO": 3268, "NGB": 109, "NGS": 8484, "PMB": 18, "PMO": 70,
}  # fmt: skip


class MatekAml(PublishedFiles):
    """AML-Cytomorphology_LMU: 18,365 single cells of 15 classes from 200 people."""

    # Counts: the table of the article; they add up to the 18,365 of the archive.
    published = Published(
        name="matek_aml",
        title="AML-Cytomorphology_LMU",
        images=18_365,
        classes=COUNTS,
        counts_checked=False,
        citation=(
            "Matek, C., Schwarz, S., Marr, C. & Spiekermann, K. (2019). A single-cell "
            "morphological dataset of leukocytes from AML patients and non-malignant controls. The "
            "Cancer Imaging Archive, doi 10.7937/tcia.2019.36f5o9ld."
        ),
        layout="AML-Cytomorphology_LMU/BAS/BAS_0001.tiff and the like",
        people=200,
        caveats=("five classes have 26 images or fewer: their scores rest on single images",),
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name.lower(): name for name in COUNTS})
        return Place(label) if label else None


@names_config_fields
def make(data: ConfigDict) -> MatekAml:
    """Returns the data set of the `data` section of a config."""
    return MatekAml(data.root, positive=data.positive)
