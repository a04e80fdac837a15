"""Shows errors: confusion matrices, accuracy by subject, and errors with high confidence."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.compare.analysis import Study
from leukjax.compare.figures import panels
from leukjax.compare.load_results import Entry
from leukjax.data import records
from leukjax.metrics import confusion
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import predicted_class
from leukjax.report.figures import MAX_NAMED_SUBJECTS, draw_confusion
from leukjax.report.style import CLASSES, MARKERS, entitle, legend_label, style
from leukjax.report.tables import Cell, Table

MAX_ERRORS = 8  # per model


def confusion_figure(study: Study) -> Figure:
    """Draws the confusion matrix of each model, shaded by the share of the true class."""
    names = study.about.classes
    columns = min(3, len(study.ranked))
    rows = -(-len(study.ranked) // columns)
    size = 1.5 + 0.55 * min(len(names), 10)
    with style():
        figure = Figure(figsize=(max(4.0, size * columns + 0.4), (size + 0.3) * rows + 0.6))
        title = f"Confusion matrix – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        grid, axes_of_models = panels(figure, len(study.ranked))
        for axes, entry in zip(axes_of_models, study.ranked, strict=True):
            p = entry.predictions
            matrix = confusion.confusion_matrix(
                p.labels, predicted_class(p.probabilities), len(names)
            )
            draw_confusion(axes, matrix, names, small=True)
            axes.set_title(entry.name, fontsize=9)
            if axes not in grid[:, 0]:
                axes.set_ylabel("")
    return figure


@dataclasses.dataclass(frozen=True)
class SubjectAccuracy:
    """Accuracy on each subject; the subject with the lowest mean over models comes first.

    Attributes:
      names, groups: of the subjects.
      classes: for each subject, the indices of the classes of its images.
      images: number of images of each subject.
      accuracy: share of correctly classified images, by model and subject.
    """

    names: np.ndarray
    groups: np.ndarray
    classes: list[np.ndarray]
    images: Int[np.ndarray, " s"]
    accuracy: Float[np.ndarray, "m s"]


def subject_accuracy(study: Study) -> SubjectAccuracy:
    """Returns the accuracy of the ranked models on each subject."""
    test = study.test
    names, first, member, images = np.unique(
        test.subject, return_index=True, return_inverse=True, return_counts=True
    )
    correct = [predicted_class(e.predictions.probabilities) == test.labels for e in study.ranked]
    accuracy = np.stack([np.bincount(member, c) for c in correct]) / images
    order = np.lexsort((names, accuracy.mean(axis=0)))
    classes = [np.unique(test.labels[member == s]) for s in order]
    groups = test.group[first]
    return SubjectAccuracy(names[order], groups[order], classes, images[order], accuracy[:, order])


def subjects_figure(study: Study) -> Figure:
    """Draws the share of each subject's images that each model classified correctly."""
    subjects = subject_accuracy(study)
    number, models = len(subjects.names), len(study.ranked)
    x = np.arange(1, number + 1)
    named = number <= MAX_NAMED_SUBJECTS
    with style():
        figure = Figure(figsize=(7.2, 3.6 + 0.2 * (-(-models // 3))))
        axes = figure.subplots()
        title = f"Accuracy by subject – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        if models > 1:
            low, high = subjects.accuracy.min(axis=0), subjects.accuracy.max(axis=0)
            axes.vlines(x, low, high, color="#BBBBBB", lw=1, zorder=1)
        for i, entry in enumerate(study.ranked):
            # Side by side: marks of equal accuracy would hide each other.
            offset = 0.6 / models * (i - (models - 1) / 2)
            axes.scatter(
                x + offset,
                subjects.accuracy[i],
                s=26 if named else 10,
                color=CLASSES[i % 6],
                marker=MARKERS[i % 6],
                alpha=0.85,
                edgecolors="white",
                linewidths=0.4,
                label=legend_label(entry.name),
                clip_on=False,
                zorder=3,
            )
        axes.set(ylabel="correctly classified cells", ylim=(-0.03, 1.03), xlim=(0, number + 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        if named:
            labels = list(map(str, subjects.names))
            if all(len(classes) == 1 for classes in subjects.classes):
                names = [study.about.classes[classes[0]] for classes in subjects.classes]
                labels = [f"{label} ({name})" for label, name in zip(labels, names, strict=True)]
            axes.set_xticks(x, labels, rotation=90, fontsize=7 if number <= 30 else 6)
        else:
            axes.set_xlabel(f"{number} subjects, lowest accuracy first")
        cells = f"{subjects.images.min()} to {subjects.images.max()} cells per subject"
        figure.legend(
            loc="outside lower center",
            ncols=3,
            title=f"lowest accuracy first; {cells}",
            title_fontsize=8,
        )
    return figure


def subjects_table(study: Study) -> Table:
    """Returns the share of each subject's images that each model classified correctly."""
    subjects = subject_accuracy(study)
    rows: list[list[Cell]] = [
        [
            str(subjects.names[s]),
            str(subjects.groups[s]),
            ", ".join(study.about.classes[c] for c in subjects.classes[s]),
            int(subjects.images[s]),
            *map(float, subjects.accuracy[:, s]),
        ]
        for s in range(len(subjects.names))
    ]
    header = ["subject", "group", "class", "images", *(entry.name for entry in study.ranked)]
    title = f"Accuracy by subject on {study.about.data}, {study.about.part}"
    return Table("subjects", title, header, rows, left=(0, 1, 2))


def confident_errors(predictions: Predictions, count: int = MAX_ERRORS) -> np.ndarray:
    """Returns the rows of wrong predictions, the highest probability first; ties by id."""
    wrong = np.flatnonzero(predicted_class(predictions.probabilities) != predictions.labels)
    confidence = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.lexsort((predictions.id[wrong], -confidence))][:count]


def errors_table(study: Study, rows_of_models: Sequence[np.ndarray]) -> Table:
    """Returns the errors that `confident_errors` returned for each ranked model."""
    rows: list[list[Cell]] = []
    for entry, chosen in zip(study.ranked, rows_of_models, strict=True):
        p = entry.predictions
        for row in chosen:
            predicted = int(p.probabilities[row].argmax())
            rows.append(
                [
                    entry.name,
                    str(p.id[row]),
                    str(p.subject[row]),
                    p.classes[p.labels[row]],
                    p.classes[predicted],
                    float(p.probabilities[row, predicted]),
                ]
            )
    header = ["", "id", "subject", "true class", "predicted class", "probability"]
    title = f"Errors with the highest confidence on {study.about.data}, {study.about.part}"
    return Table("mistakes", title, header, rows, left=(0, 1, 2, 3, 4))


def errors_figure(
    study: Study,
    rows_of_models: Sequence[np.ndarray],
    images_of_models: Sequence[UInt8[np.ndarray, "n s s 3"]],
) -> Figure:
    """Draws the errors of each model with the highest confidence.

    Args:
      study: the models.
      rows_of_models: for each ranked model, the rows that `confident_errors` returned.
      images_of_models: the images of these rows.
    """
    classes = study.about.classes
    with style():
        figure = Figure(figsize=(7.2, 0.5 + 1.35 * len(study.ranked)))
        title = f"Errors with the highest confidence – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        grid = figure.subplots(len(study.ranked), MAX_ERRORS, squeeze=False)
        for entry, rows, images, grid_row in zip(
            study.ranked, rows_of_models, images_of_models, grid, strict=True
        ):
            p = entry.predictions
            predicted = predicted_class(p.probabilities)
            for column, axes in enumerate(grid_row):
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if column >= len(rows):
                    continue
                row = rows[column]
                axes.imshow(images[column], interpolation="nearest")
                true, wrong = classes[p.labels[row]], classes[predicted[row]]
                probability = p.probabilities[row].max()
                axes.set_title(
                    f"{true} →\n{wrong} {probability:.1%}", fontsize=6.5, fontweight="normal"
                )
                axes.set_xlabel(f"subject\n{_shortened(str(p.subject[row]))}", fontsize=6)
            grid_row[0].set_ylabel(entry.name, fontsize=8, fontweight="bold")
    return figure


def _shortened(text: str, most: int = 16) -> str:
    return text if len(text) <= most else "…" + text[-most + 1 :]


def cached_images(
    entry: Entry, ids: Sequence[np.ndarray]
) -> list[UInt8[np.ndarray, "n s s 3"]] | None:
    """Returns images by id, one array per list of ids; None if the cache does not contain them.

    The images are those of the entry's first run. A run may be of any origin: only this machine's
    cache is read, nothing is prepared or copied, and no folder that the run names is read.
    """
    if not entry.runs:
        return None
    run = entry.runs[0]
    try:
        stored = records.find(run.summary["data"], run.data["records_sha256"])
        if stored is None:
            logging.info("no pictures in the report: the images are not in the cache")
            return None
        return _read_images(stored, run.split, ids)
    # A damaged cache can raise any of these, and array_record may be missing (Windows): a report
    # does not need its pictures.
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError) as error:
        logging.info("no pictures in the report: the images cannot be read (%s)", error)
        return None


def _read_images(
    stored: records.Stored, split: Iterable[str], ids: Sequence[np.ndarray]
) -> list[UInt8[np.ndarray, "n s s 3"]]:
    # Records are in the order of the ids, and split.csv contains all ids.
    index_of_id = {name: i for i, name in enumerate(np.sort(np.array(list(split))).tolist())}
    arrays = []
    for wanted in ids:
        images = np.zeros((len(wanted), stored.image_size, stored.image_size, 3), np.uint8)
        for i, name in enumerate(map(str, wanted)):
            stored_id, images[i] = stored.image(index_of_id[name])
            if stored_id != name:
                raise ValueError(f"record {index_of_id[name]} is {stored_id}, not {name}")
        arrays.append(images)
    return arrays
