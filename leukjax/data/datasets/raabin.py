"""Raabin: leucocytes of peripheral blood from Tehran, in three parts."""

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of

# Train + TestA + TestB.
COUNTS = {
    "Basophil": 212 + 89,
    "Eosinophil": 744 + 322,
    "Lymphocyte": 2427 + 1034 + 148,
    "Monocyte": 561 + 234,
    "Neutrophil": 6231 + 2660 + 1971,
}
PARTS = {"train": "Train", "testa": "TestA", "test-a": "TestA", "testb": "TestB", "test-b": "TestB"}


class Raabin(PublishedFiles):
    """Raabin-WBC: 16,633 single cells of 5 classes, in the parts Train, TestA and TestB."""

    published = Published(
        name="raabin",
        title="Raabin-WBC",
        images=16_633,
        classes=COUNTS,
        counts_checked=False,
        citation=(
            "Kouzehkanan, Z. M. et al. (2022). A large dataset of white blood cells containing "
            "cell locations and types, along with segmented nuclei and cytoplasm. Scientific "
            "Reports 12, 1123, doi 10.1038/s41598-021-04426-x."
        ),
        layout="Train/Basophil/….jpg, TestA/… and TestB/…",
        caveats=("TestB has two of the classes only, and is in no part of the official split",),
        parts={"Train": "train", "TestA": "test"},
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name.lower(): name for name in COUNTS})
        return Place(label, phase=folder_of(file, PARTS) or "") if label else None


@names_config_fields
def make(data: ConfigDict) -> Raabin:
    """Returns the data set of the `data` section of a config."""
    return Raabin(data.root, positive=data.positive)
