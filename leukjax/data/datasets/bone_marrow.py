"""BoneMarrow: cells of bone marrow smears from the Munich Leukemia Laboratory."""

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of

COUNTS = {
    "ABE": 8, "ART": 19_630, "BAS": 441, "BLA": 11_973, "EBO": 27_395, "EOS": 5883, "FGC": 47,
    "HAC": 409, "KSC": 42, "LYI": 65, "LYT": 26_242, "MMZ": 3055, "MON": 4040, "MYB": 6557,
    "NGB": 9968, "NGS": 29_424, "NIF": 3538, "OTH": 294, "PEB": 2740, "PLM": 7629, "PMO": 11_994,
}  # fmt: skip


class BoneMarrow(PublishedFiles):
    """Bone-Marrow-Cytomorphology: 171,374 single cells of 21 classes from 945 patients."""

    # The article and its table say 171,374 (and the classes add up to it), the archive 171,375.
    published = Published(
        name="bone_marrow",
        title="Bone-Marrow-Cytomorphology",
        images=171_374,
        classes=COUNTS,
        counts_checked=False,
        citation=(
            "Matek, C., Krappe, S., Münzenmayer, C., Haferlach, T. & Marr, C. (2021). An "
            "expert-annotated dataset of bone marrow cytology in hematologic malignancies. The "
            "Cancer Imaging Archive, doi 10.7937/TCIA.AXH3-T579."
        ),
        licence="CC BY 4.0",
        layout="BM_cytomorphology_data/BLA/0001-1000/BLA_00001.jpg and the like",
        people=945,
        caveats=(
            "four classes have 65 images or fewer, one of them 8: their scores rest on few images",
        ),
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name.lower(): name for name in COUNTS})
        return Place(label) if label else None


@names_config_fields
def make(data: ConfigDict) -> BoneMarrow:
    """Returns the data set of the `data` section of a config."""
    return BoneMarrow(data.root, positive=data.positive)
