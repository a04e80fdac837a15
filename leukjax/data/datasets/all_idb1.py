"""AllIdb1: whole fields of smears, from patients who are not named."""

import re

from ml_collections import ConfigDict

from leukjax.data.archive import File
from leukjax.data.dataset import names_config_fields
from leukjax.data.published import Place, Published, PublishedFiles

# The number after the underscore: 1 = a patient with leukaemia, 0 = healthy.
_NAME = re.compile(r"Im[0-9]+_([01])\.jpe?g", re.IGNORECASE)


class AllIdb1(PublishedFiles):
    """ALL-IDB1: 108 fields, leukaemic (all) or healthy.

    Its .xyc files mark the blasts of a field, one class: `crops` reads such files.
    """

    published = Published(
        name="all_idb1",
        title="ALL-IDB1",
        images=108,
        classes={"all": 49, "healthy": 59},
        citation=(
            "Donida Labati, R., Piuri, V. & Scotti, F. (2011). ALL-IDB: the acute lymphoblastic "
            "leukemia image database for image processing. ICIP 2011, "
            "doi 10.1109/ICIP.2011.6115881."
        ),
        layout="im/Im001_1.jpg and the like (ALL-IDB2, single cells as .tif, is another data set)",
        caveats=("each image is a whole field, and is shrunk to data.image_size",),
        positive="all",
    )
    citation = published.citation

    def place(self, file: File) -> Place | None:
        match = _NAME.fullmatch(file.name)
        return Place(("healthy", "all")[int(match[1])]) if match else None


@names_config_fields
def make(data: ConfigDict) -> AllIdb1:
    """Returns the data set of the `data` section of a config."""
    return AllIdb1(data.root, positive=data.positive)
