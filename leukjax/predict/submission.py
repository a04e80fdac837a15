"""The submission file of the test phases of the C-NMC 2019 challenge."""

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from leukjax.data.datasets.cnmc import CLASSES, OF_LABELS_FILE
from leukjax.errors import UserError
from leukjax.storage import open_output

# The challenge's server expects this name in the submitted zip.
NAME = "isbi_valid.predict"
_DIGIT = {name: digit for digit, name in OF_LABELS_FILE.items()}


class Submission:
    """One digit per line, 1 = all and 0 = hem, in the order of the images' numbers.

    A path that ends in .zip gets the zip to submit; any other gets the text.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], names: Iterable[str]):
        """Checks names and classes before any image is predicted.

        Args:
          path: the file to write.
          classes: class names of the model.
          names: of all images, 1.bmp to N.bmp, in any order.

        Raises:
          UserError: other classes, or names that are not those of a test phase.
        """
        if set(classes) != set(CLASSES):
            raise UserError(
                f"--submission={path}: C-NMC has the classes all and hem, the model "
                f"{', '.join(classes)}"
            )
        self._path = path
        self._digits: dict[int, str] = {}
        numbers = sorted(_number(name) for name in names)
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                what = f"{number}.bmp occurs twice" if number < expected else (
                    f"{expected}.bmp is missing"
                )  # fmt: skip
                raise UserError(f"--submission={path}: {what}; give all images of one test phase")
        self._count = len(numbers)

    def add(self, name: str, predicted: str) -> None:
        """Records the class of an image."""
        self._digits[_number(name)] = _DIGIT[predicted]

    def write(self) -> None:
        """Writes the file.

        Raises:
          UserError: an image has no class, or the file cannot be written.
        """
        for number in range(1, self._count + 1):
            if number not in self._digits:
                raise UserError(
                    f"--submission={self._path}: {number}.bmp has no class; see its row in the "
                    "table; the submission is not written"
                )
        text = "".join(f"{self._digits[number]}\n" for number in sorted(self._digits))
        content = text.encode()
        if self._path.suffix.lower() == ".zip":
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo(NAME), text)
            content = data.getvalue()
        try:
            with open_output(self._path) as file:
                file.write(content)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"--submission={self._path}: cannot be written ({reason}); choose another"
            ) from error


def _number(name: str) -> int:
    match = re.search(r"(?:^|[/!\\])0*([0-9]{1,9})\.bmp$", name, re.IGNORECASE)
    if match is None:
        raise UserError(
            f"--submission: {name} is not named N.bmp; give the images of one test phase only"
        )
    return int(match[1])
