"""TaleqaniAll: smears of acute lymphoblastic leukaemia and benign ones, from Tehran."""

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of

COUNTS = {"Benign": 504, "Early": 985, "Pre": 963, "Pro": 804}


class TaleqaniAll(PublishedFiles):
    """ALL image dataset of Taleqani Hospital: 3,256 images of 4 classes from 89 patients."""

    # Counts of the classes: they add up to the 3,256 that are published.
    published = Published(
        name="taleqani_all",
        title="Taleqani ALL",
        images=3256,
        classes=COUNTS,
        counts_checked=False,
        citation=(
            "Aria, M., Ghaderzadeh, M., Bashash, D., Abolghasemi, H., Asadi, F. & Hosseini, A. "
            "(2021). Acute Lymphoblastic Leukemia (ALL) image dataset. Kaggle, "
            "doi 10.34740/KAGGLE/DSV/2175623."
        ),
        layout="Original/Benign/….jpg and the like",
        people=89,
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name.lower(): name for name in COUNTS})
        # The folder Segmented holds the same images again, masked.
        copy = folder_of(file, {"segmented": "copy"})
        return Place(label) if label and not copy else None


@names_config_fields
def make(data: ConfigDict) -> TaleqaniAll:
    """Returns the data set of the `data` section of a config."""
    return TaleqaniAll(data.root, positive=data.positive)
