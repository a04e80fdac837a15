"""BloodMnist: the cells of PBC in MedMNIST's form, with its own parts."""

import os

from ml_collections import ConfigDict

from leukjax.data.dataset import names_config_fields
from leukjax.data.datasets.npz import Npz
from leukjax.data.published import Published
from leukjax.errors import UserError

# In the order of the labels 0 to 7; the images are those of PBC.
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


class BloodMnist(Npz):
    """BloodMNIST: 17,092 single cells of 8 classes, in parts of 11,959, 1,712 and 3,421."""

    published = Published(
        name="bloodmnist",
        title="BloodMNIST",
        images=17_092,
        classes=COUNTS,
        citation=(
            "Yang, J. et al. (2023). MedMNIST v2 - a large-scale lightweight benchmark for 2D and "
            "3D biomedical image classification. Scientific Data 10, 41, "
            "doi 10.1038/s41597-022-01721-8; and PBC, of which it is made."
        ),
        licence="CC BY 4.0",
    )
    citation = published.citation

    def __init__(
        self, root: str | os.PathLike[str], *, positive: str = "", bad_images: str = "error"
    ) -> None:
        """Reads bloodmnist.npz, bloodmnist_64.npz, … as `Npz`, and names its classes.

        Raises:
          UserError: as `Npz`, or the labels are not 0 to 7.
        """
        super().__init__(root, bad_images=bad_images)
        names = tuple(COUNTS)
        if self.classes != tuple(str(label) for label in range(len(names))):
            raise UserError(
                f"root: {root} is not laid out as BloodMNIST: its labels are "
                f"{', '.join(self.classes)[:100]}, and should be 0 to 7"
            )
        if positive and positive not in names:
            raise UserError(f"positive: {positive!r} is none of the classes {', '.join(names)}")
        self.name, self.classes, self.positive = self.published.name, names, positive
        self.notes = self.published.notes(self.entries, names, False)
        self.config_fields = {**self.config_fields, "data.positive": positive}


@names_config_fields
def make(data: ConfigDict) -> BloodMnist:
    """Returns the data set of the `data` section of a config."""
    if not data.root:
        raise UserError("root: give the .npz file")
    return BloodMnist(data.root, positive=data.positive)
