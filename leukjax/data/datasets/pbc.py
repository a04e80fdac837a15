"""Pbc: normal cells of peripheral blood from the Hospital Clinic of Barcelona."""

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles, folder_of

COUNTS = {
    "basophil": 1218,
    "eosinophil": 3117,
    "erythroblast": 1551,
    "ig": 2895,
    "lymphocyte": 1214,
    "monocyte": 1420,
    "neutrophil": 3329,
    "platelet": 2348,
}
# First word of a file's name, for copies without folders.
_PREFIXES = {
    "BA": "basophil",
    "EO": "eosinophil",
    "ERB": "erythroblast",
    **dict.fromkeys(("IG", "MMY", "MY", "PMY"), "ig"),
    "LY": "lymphocyte",
    "MO": "monocyte",
    **dict.fromkeys(("NEUTROPHIL", "BNE", "SNE"), "neutrophil"),
    "PLATELET": "platelet",
}


class Pbc(PublishedFiles):
    """PBC: 17,092 single cells of 8 classes from people without disease."""

    published = Published(
        name="pbc",
        title="PBC",
        images=17_092,
        classes=COUNTS,
        citation=(
            "Acevedo, A. et al. (2020). A dataset of microscopic peripheral blood cell images for "
            "development of automatic recognition systems. Data in Brief 30, 105474, "
            "doi 10.1016/j.dib.2020.105474."
        ),
        licence="CC BY 4.0",
        layout="PBC_dataset_normal_DIB/basophil/BA_1000.jpg and the like",
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        label = folder_of(file, {name: name for name in COUNTS})
        label = label or _PREFIXES.get(file.stem.split("_")[0].upper())
        return Place(label) if label else None


@names_config_fields
def make(data: ConfigDict) -> Pbc:
    """Returns the data set of the `data` section of a config."""
    return Pbc(data.root, positive=data.positive)
