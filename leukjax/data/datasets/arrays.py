"""Arrays: images in memory."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data.dataset import Dataset
from leukjax.data.image_stats import find_background, sample_rows
from leukjax.data.source import INFO, Entry, Note
from leukjax.errors import UserError


class Arrays(Dataset):
    """Images in memory, with labels and groups. Nothing is read from or written to the disk.

    Row i of `manifest` is image i; ids are the zero-padded numbers of the images.
    """

    in_memory = True

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w 3"] | Sequence[np.ndarray],
        labels: Sequence[int] | Sequence[str] | np.ndarray,
        groups: Sequence[object] | np.ndarray | None = None,
        *,
        classes: Sequence[str] | None = None,
        positive: str = "",
        background: str | None = None,
        name: str = "arrays",
    ) -> None:
        """Checks the arrays; the images are not copied.

        Args:
          images: uint8[n, h, w, 3], RGB, or n arrays uint8[h, w, 3] of different sizes.
          labels: n class names or indices; "" or -1 = unlabelled.
          groups: the group of each image (patient, slide, donor), whose images are never on two
            sides of a split; None = each image is its own group.
          classes: class names, in the order of the indices; by default the sorted names, or
            "0", "1", …
          positive: class of precision, recall and F1; by default the second of two.
          background: "black" (the cell is every pixel above black), "bright" (the cell is darker
            than the background), or None = found from the border of some images.
          name: name of the data set, for reports.

        Raises:
          TypeError: images that are not uint8 RGB, or labels that are neither names nor indices.
          ValueError: arrays of different lengths, a label outside the classes, an index without
            images (unless `classes` names it), less than two classes.
        """
        self._images = images
        _check_images(images)
        if len(labels) != len(images):
            raise ValueError(f"labels: {len(labels)} labels of {len(images)} images")
        if groups is not None and len(groups) != len(images):
            raise ValueError(f"groups: {len(groups)} groups of {len(images)} images")
        for row, group in enumerate(() if groups is None else groups):
            if group is None or group != group or str(group) == "":  # NaN differs from itself
                raise ValueError(
                    f"groups: image {row} has the group {str(group)!r}; give each image without a "
                    "known group one of its own"
                )
        names, codes = _labels(labels, classes)
        width = len(str(max(len(images) - 1, 0)))
        ids = [f"{row:0{width}d}" for row in range(len(images))]
        subjects = ids if groups is None else [str(group) for group in groups]
        entries = [
            Entry(id, "", label, subject)
            for id, label, subject in zip(ids, codes, subjects, strict=True)
        ]
        counts = Counter(codes)
        per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(names))
        empty = [name for label, name in enumerate(names) if not counts[label]]
        if empty and classes is None:
            raise ValueError(f"labels: no image of class {empty[0]!r} ({per_class})")
        if background is None:
            background, _ = find_background(images[row] for row in sample_rows(len(images)))
        super().__init__(
            name=name,
            classes=names,
            positive=positive,
            entries=entries,
            notes=[
                Note(
                    INFO,
                    f"{len(images):,} images ({per_class}) of {len(set(subjects)):,} groups"
                    + (", each image its own: scores may be too high" if groups is None else ""),
                ),
                Note(INFO, f"background: {background}"),
            ],
            subjects_known=groups is not None,
            background=background,
        )

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return np.ascontiguousarray(self._images[int(entry.id)])


def make(data: ConfigDict) -> Arrays:
    """Raises UserError: a config cannot hold images."""
    raise UserError(
        f"data.name: {data.name!r} are images in memory, which no config can name. Pass "
        "leukjax.Arrays(images, labels) to Python functions, or save the images as files"
    )


def _check_images(images: np.ndarray | Sequence[np.ndarray]) -> None:
    if not len(images):
        raise ValueError("images: is empty")
    for number, image in enumerate(images[:1] if isinstance(images, np.ndarray) else images):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(
                f"images: expected uint8[n, h, w, 3], RGB in 0 to 255; image {number} is "
                f"{image.dtype}{list(image.shape)}{_image_fix(image)}"
            )
        if min(image.shape[:2]) < 1:
            raise ValueError(f"images: image {number} has no pixels")


def _image_fix(image: np.ndarray) -> str:
    """How to turn such images into RGB, as the end of a message; "" if unknown."""
    if image.dtype != np.uint8:
        is_share = image.dtype.kind == "f" and image.size > 0 and image.max() <= 1
        return f"; use {'(255 * x)' if is_share else 'x'}.astype('uint8')"
    if image.ndim == 2:
        return "; greyscale: use np.stack([x] * 3, axis=-1)"
    if image.ndim != 3:
        return ""
    if image.shape[-1] == 1:
        return "; greyscale: use x.repeat(3, axis=-1)"
    if image.shape[-1] == 4:
        return "; RGBA: use x[..., :3]"
    if image.shape[0] == 3:
        return "; colours come last: use x.transpose(0, 2, 3, 1)"
    return ""


def _labels(
    labels: Sequence[int] | Sequence[str] | np.ndarray, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[int]]:
    """Returns class names, and the index of each label; -1 = unlabelled."""
    values = np.asarray(labels)
    if values.dtype == object and all(isinstance(value, str) for value in values):
        values = values.astype(np.str_)  # a column of pandas
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise TypeError(
            f"labels: expected n class names or whole numbers, got {values.dtype}"
            f"{list(values.shape)}{_label_fix(values)}"
        )
    texts = values.dtype.kind == "U"
    if classes is not None:
        names = tuple(classes)
    elif texts:
        names = tuple(sorted(set(values.tolist()) - {""}))
    else:
        names = tuple(str(label) for label in range(int(values.max(initial=-1)) + 1))
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"classes: expected two different names or more, got {list(names)}")
    if not texts:
        if values.min() < -1:
            raise ValueError(f"labels: {values.min()} is below -1, which means unlabelled")
        if values.max() >= len(names):
            raise ValueError(
                f"labels: label {values.max()} has no name in classes ({len(names)} names)"
            )
        return names, values.tolist()
    index = {"": -1} | {name: label for label, name in enumerate(names)}
    unknown = sorted(set(values.tolist()) - set(index))
    if unknown:
        raise ValueError(f"labels: {unknown[0]!r} is not a class; one of {', '.join(names)}")
    return names, [index[label] for label in values.tolist()]


def _label_fix(values: np.ndarray) -> str:
    """How to turn such labels into whole numbers, as the end of a message; "" if unknown."""
    if values.ndim == 2 and values.shape[1] > 1:
        return "; one-hot: use labels.argmax(1)"
    if values.ndim == 2 and values.shape[1] == 1:
        return "; use labels[:, 0]"
    if values.dtype.kind == "b":
        return "; use labels.astype(int)"
    if values.ndim == 1 and values.dtype.kind == "f":
        if np.isnan(values).any():
            return "; NaN: give -1 to unlabelled images, and use labels.astype(int)"
        if (values == values.round()).all():
            return "; use labels.astype(int)"
    return ""
