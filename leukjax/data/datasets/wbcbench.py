"""WbcBench: leucocytes of a challenge of ISBI 2026, listed in a table."""

import os

from ml_collections import ConfigDict

from leukjax.data.dataset import names_config_fields
from leukjax.data.datasets.table import Table
from leukjax.data.published import Published
from leukjax.errors import UserError

# Counts per class are not published in a form that we have read.
_CLASSES = ("BA", "BL", "BNE", "EO", "LY", "MMY", "MO", "MY", "PC", "PLY", "PMY", "SNE", "VLY")


class WbcBench(Table):
    """WBCBench 2026: 55,012 single cells of 13 classes, in parts by patient."""

    published = Published(
        name="wbcbench",
        title="WBCBench 2026",
        images=55_012,
        classes=dict.fromkeys(_CLASSES, 0),
        citation=(
            "Tian, X. et al. (2026). WBCBench 2026: a challenge for robust white blood cell "
            "classification under class imbalance. ISBI 2026, arXiv:2604.10797."
        ),
        licence="CC BY-NC 4.0, by request",
        caveats=(
            "the parts are by patient, and the table does not name them",
            "part of the images are degraded on purpose (noise, blur, light)",
        ),
    )
    citation = published.citation

    def __init__(
        self,
        table: str | os.PathLike[str],
        root: str | os.PathLike[str] = "",
        *,
        path_template: str = "",
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Reads a table with the columns ``ID,labels,split`` as `Table`.

        Args:
          table: the table.
          root: folder or zip with the images. Default: the folder of the table.
          path_template: of an image below the root. Default: ``{ID}.jpg``.
          positive: as `Table`.
          bad_images: as `Table`.

        Raises:
          UserError: as `Table`, or a class that is not one of the challenge.
        """
        super().__init__(
            table,
            root,
            path_template=path_template or "{ID}.jpg",
            positive=positive,
            bad_images=bad_images,
        )
        unknown = [name for name in self.classes if name not in _CLASSES]
        if unknown:
            raise UserError(
                f"table: {table} is not laid out as WBCBench 2026: {unknown[0]!r} is none of its "
                f"classes {', '.join(_CLASSES)}"
            )
        self.name = self.published.name
        self.notes = self.published.notes(self.entries, self.classes, self.subjects_known)


@names_config_fields
def make(data: ConfigDict) -> WbcBench:
    """Returns the data set of the `data` section of a config."""
    if not data.table:
        raise UserError("table: give the table that lists the images")
    return WbcBench(data.table, data.root, path_template=data.path_template, positive=data.positive)
