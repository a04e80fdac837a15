"""Reports facts on the runs: data flow, leakage, cost, settings, selection, versions."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukjax.compare.analysis import Study
from leukjax.compare.load_results import Entry, Run
from leukjax.report.provenance import About
from leukjax.report.style import BLUE, GREY, entitle, style
from leukjax.report.tables import Cell, Table
from leukjax.rundir import RunDir

PARTS = ("train", "val", "test")
HELD_OUT = "held_out"  # of all folds of a cross-validation: the test of its ensembles

_PART_TITLES = {
    "all": "all images",
    "train": "training",
    "val": "validation",
    "test": "test",
    "held_out": "held out of all folds",
    "unused": "in no part",
    "skipped": "skipped as unreadable",
}
# The runs of a cross-validation call "test" what their fold leaves out.
_FOLD_PART_TITLES = _PART_TITLES | {
    "train": "training, first fold",
    "val": "validation, first fold",
    "test": "left out of the first fold (scored out of fold)",
    "held_out": "held-out test",
}
_BOXES = {"train": "Training", "val": "Validation", "test": "Test"}
_FOLD_BOXES = {
    "train": "Training, first fold",
    "val": "Validation, first fold",
    "test": "Out of fold, first fold",
}


@dataclasses.dataclass(frozen=True)
class FlowStep:
    """Counts of one step of the data flow.

    Attributes:
      part: "all", a part of the split, "unused" or "skipped".
      label: class; "" = all classes.
      images, subjects, groups: their numbers.
    """

    part: str
    label: str
    images: int
    subjects: int
    groups: int


def flow(run: Run) -> list[FlowStep]:
    """Returns counts from the source to each part of the split, in total and by class."""
    rows = list(run.split.values())
    steps = [_step("all", "", rows)]
    unused = [row for row in rows if not row[3]]
    if unused:
        steps.append(_step("unused", "", unused))
    for part in (*PARTS, HELD_OUT):
        in_part = [row for row in rows if row[3] == part]
        if part == HELD_OUT and not in_part:
            continue
        steps.append(_step(part, "", in_part))
        for name in run.summary["classes"]:
            steps.append(_step(part, name, [row for row in in_part if row[2] == name]))
    skipped = RunDir(run.folder).table("skipped.csv", ())
    if skipped:
        steps.append(FlowStep("skipped", "", len(skipped), 0, 0))
    return steps


def _step(part: str, label: str, rows: Sequence[tuple[str, str, str, str]]) -> FlowStep:
    subjects, groups = {row[0] for row in rows}, {row[1] for row in rows}
    return FlowStep(part, label, len(rows), len(subjects), len(groups))


def flow_table(study: Study) -> Table | None:
    """Returns numbers of images and subjects from the source to each part of the split."""
    entry = next((entry for entry in study.ranked if entry.runs), None)
    if entry is None:
        return None
    titles = _FOLD_PART_TITLES if entry.folds else _PART_TITLES
    rows: list[list[Cell]] = [
        [titles[s.part], s.label or "all", s.images, s.subjects or None, s.groups or None]
        for s in flow(entry.runs[0])
    ]
    kind = " (first fold of the cross-validation)" if entry.folds else ""
    return Table(
        "flow",
        f"Images and subjects from source to test{kind}: {study.about.data}",
        ["part", "class", "images", "subjects", "groups"],
        rows,
        [
            "Groups: subjects joined by identical images; a subject-wise split never divides a"
            " group.",
            f"The scores of this report are of: {study.about.part}.",
        ],
        left=(0, 1),
    )


def flow_figure(steps: Sequence[FlowStep], about: About, *, first_fold: bool = False) -> Figure:
    """Draws the source above, the parts of the split below, and unused images at the side.

    Args:
      steps: result of `flow`.
      about: what was evaluated.
      first_fold: the steps are those of the first of several folds.
    """
    totals = {step.part: step for step in steps if not step.label}
    left_out = [
        f"{totals[part].images:,} {reason}"
        for part, reason in (("unused", "in no part"), ("skipped", "unreadable"))
        if part in totals
    ]
    titles = dict(_FOLD_BOXES if first_fold else _BOXES)
    if HELD_OUT in totals:
        titles[HELD_OUT] = "Held-out test"
    width, classes = len(titles), min(len(about.classes), 6)
    with style():
        figure = Figure(figsize=(7.2, 2.6 + 0.2 * classes))
        axes = figure.subplots()
        entitle(figure, f"Data flow – {about.data}", about.marks())
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(0, 2))
        _box(axes, width / 2, 1.65, f"Source\n{_counts(totals['all'])}", GREY)
        if left_out:
            start, end = (width / 2 + 0.45, 1.65), (width / 2 + 0.6, 1.65)
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>"})
            text = "left out:\n" + "\n".join(left_out)
            axes.text(width / 2 + 0.63, 1.65, text, va="center", fontsize=8)
        for i, (part, title) in enumerate(titles.items()):
            arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0}
            axes.annotate("", (i + 0.5, 1.02), (width / 2, 1.4), arrowprops=arrow)
            by_class = [step for step in steps if step.part == part and step.label][:classes]
            lines = [f"{step.label}: {step.images:,} of {step.subjects:,}" for step in by_class]
            if len(about.classes) > classes:
                lines.append("…")
            text = "\n".join([title, _counts(totals[part]), "", *lines])
            _box(axes, i + 0.5, 0.5, text, BLUE)
    return figure


def _counts(step: FlowStep) -> str:
    groups = "" if step.groups == step.subjects else f"\n{step.groups:,} groups"
    return f"{step.images:,} images\n{step.subjects:,} subjects{groups}"


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=8.5,
        linespacing=1.25,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "lw": 1.3},
    )


def leakage_table(study: Study) -> Table | None:
    """Returns subjects, groups and image pairs that are in several parts of the split.

    They are counted from split.csv and duplicates.csv, not taken from the summary of the run.
    """
    rows: list[list[Cell]] = []
    for entry in study.with_runs:
        run = entry.runs[0]
        subjects, groups = (_divided(run, column) for column in (0, 1))
        identical, near = _pairs_across_parts(run)
        rows.append([entry.name, run.summary["protocol"], subjects, groups, identical, near,
                     "LEAKY" if groups else "none"])  # fmt: skip
    header = [
        "",
        "split",
        "subjects on two sides",
        "groups on two sides",
        "identical pairs across parts",
        "similar pairs across parts",
        "leakage",
    ]
    notes = ["Counted from split.csv and duplicates.csv of the first run of each model."]
    return _table("leakage", "Leakage between the parts of the split", header, rows, notes,
                  left=(0, 1, 6))  # fmt: skip


def _divided(run: Run, column: int) -> int:
    """Returns how many values of a column of the split are in several parts."""
    pairs = {(row[column], row[3]) for row in run.split.values() if row[3]}
    return sum(parts > 1 for parts in Counter(name for name, _ in pairs).values())


def _pairs_across_parts(run: Run) -> tuple[str, str]:
    """Returns "N of M" for the identical and the similar pairs: N have images in two parts."""
    total, across = {"near": 0, "identical": 0}, {"near": 0, "identical": 0}
    for kind, *ids in RunDir(run.folder).table("duplicates.csv", ("kind", "id_a", "id_b")):
        kind = "near" if kind == "near" else "identical"
        parts = {run.split.get(name, ("", "", "", ""))[3] for name in ids} - {""}
        total[kind] += 1
        across[kind] += len(parts) > 1
    identical, near = (f"{across[k]:,} of {total[k]:,}" for k in ("identical", "near"))
    return identical, near


def cost_table(study: Study) -> Table | None:
    """Returns parameters, FLOPs, speed and training time of each model."""
    rows: list[list[Cell]] = []
    for entry in study.with_runs:
        summary = entry.runs[0].summary
        rates = [rate for run in entry.runs if (rate := _images_per_second(run)) is not None]
        seconds = np.mean([run.summary["seconds_trained"] for run in entry.runs])
        rows.append(
            [
                entry.name,
                summary["model"],
                summary["parameters"],
                f"{summary['flops_per_image'] / 1e9:.3g}",
                round(float(np.mean(rates))) if rates else None,
                f"{seconds / 60:.1f}",
                len(entry.runs),
                summary["device"],
            ]
        )
    header = ["", "model", "parameters", "GFLOPs per image", "images/s", "minutes", "runs",
              "device"]  # fmt: skip
    notes = [
        "GFLOPs: of a forward pass; a multiplication and an addition count as two. Images/s: in"
        " training, median over epochs. Minutes: training and validation of one run. Other work on"
        " the same machine makes both worse."
    ]
    title = f"Cost of the models on {study.about.data}"
    return _table("cost", title, header, rows, notes, left=(0, 1, 7))


def _images_per_second(run: Run) -> float | None:
    """Returns the training speed, without the first epoch, which compiles."""
    rates = [
        record["images_per_second"]
        for record in run.history
        if record["part"] == "train" and "images_per_second" in record
    ]
    return float(np.median(rates[1:] or rates)) if rates else None


def settings(entry: Entry) -> dict[str, str]:
    """Returns the settings of a model with runs that a reader of a comparison needs."""
    config, probe = entry.runs[0].config, entry.runs[0].summary["probe"]
    optimizer, train = config["optimizer"], config["train"]
    augmentations = [
        name if isinstance(value, bool) else f"{name} {value:g}"
        for name, value in config["augment"].items()
        if value
    ]
    shown = {
        "initialisation": entry.runs[0].weights or "random",
        "image size": f"{config['data']['image_size']} px",
        "optimiser": f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g},"
        f" {optimizer['schedule']}, weight decay {optimizer['weight_decay']:g}",
        "epochs × batch": f"{train['epochs']:g} × {train['batch_size']}",
        "augmentation": ", ".join(augmentations) or "none",
        "loss": config["loss"]["name"],
        "seeds": ", ".join(str(s) for s in sorted({run.config["seed"] for run in entry.runs})),
    }
    if probe:  # the network was not trained, whatever its config says of training
        shown |= dict.fromkeys(("epochs × batch", "augmentation", "loss"), "none: a probe")
        shown["optimiser"] = f"frozen network; {probe}"
    return shown


def settings_table(study: Study) -> Table | None:
    """Returns the settings of each model, and whether all models share them."""
    columns = [settings(entry) for entry in study.with_runs]
    if not columns:
        return None
    rows: list[list[Cell]] = [
        [name, *(column[name] for column in columns), "shared" if len(values) == 1 else "differs"]
        for name in columns[0]
        if (values := {column[name] for column in columns})
    ]
    header = ["", *(entry.name for entry in study.with_runs), ""]
    return _table("settings", "Settings of the models", header, rows,
                  ["All fields: config.json of each run."])  # fmt: skip


def selection_table(study: Study) -> Table | None:
    """Returns how epoch and threshold were chosen, and how often the test was accessed."""
    rows: list[list[Cell]] = []
    for entry in study.with_runs:
        # A head of a probe that has no epochs reports 0.
        chosen = [run.summary["epoch_chosen"] for run in entry.runs[:6]]
        epochs = ", ".join(f"{epoch:g}" if epoch else "–" for epoch in chosen)
        epochs += ", …" if len(entry.runs) > 6 else ""
        chosen_by = entry.runs[0].summary["chosen_by"]
        threshold = "class with the largest probability"
        rows.append([entry.name, epochs, chosen_by, threshold, _test_accesses(entry)])
    header = ["", "epoch", "epoch chosen by", "threshold", "test accesses"]
    return _table("choices", "Selection of epoch and threshold", header, rows)


def _test_accesses(entry: Entry) -> str:
    """Returns the numbers of test accesses, from the ledger of the cross-validation or the runs."""
    if entry.out_of_fold is not None and entry.study is not None:
        models = [record["model"] for record in RunDir(entry.study).study_accesses()]
        if models:
            return f"{models.count(entry.name)} (for the ensemble)"
    counts = [
        # The ledger also has the accesses after the end of the run.
        RunDir(run.folder).test_accesses() or int(run.summary["test_openings"])
        for run in entry.runs
    ]
    return ", ".join(dict.fromkeys(map(str, counts)))


def trials_table(study: Study) -> Table | None:
    """Returns all trials of the sweeps of all cross-validations, chosen or not."""
    header: list[str] = []
    rows: list[list[Cell]] = []
    for folder in dict.fromkeys(entry.study for entry in study.ranked if entry.study):
        titles, lines = RunDir(folder).csv_rows("trials.csv")
        if lines and (not header or titles == header):
            header = titles
            rows += [[_number_or_text(cell) for cell in line] for line in lines]
    notes = ["Every model had the same number of trials. The test took no part in them."]
    return _table("trials", "All trials of the sweep, on the validation images of their fold",
                  header, rows, notes, left=(0, 5))  # fmt: skip


def _number_or_text(cell: str) -> Cell:
    try:
        return float(cell) if "." in cell else int(cell)
    except ValueError:
        return cell


def versions_table(study: Study) -> Table | None:
    """Returns software versions, hardware and checksums."""
    runs = [entry.runs[0] for entry in study.with_runs]
    if not runs:
        return None
    names = dict.fromkeys(name for run in runs for name in run.summary["versions"])
    rows: list[list[Cell]] = [
        [name, *(run.summary["versions"].get(name, "–") for run in runs)] for name in names
    ]
    rows.append(["device", *(run.summary["device"] for run in runs)])
    for name in ("records_sha256", "split_sha256"):
        rows.append([name, *(run.data[name][:16] + "…" for run in runs)])
    header = ["", *(entry.name for entry in study.with_runs)]
    return _table("versions", "Versions, hardware and checksums of the first run of each model",
                  header, rows)  # fmt: skip


def _table(
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    left: Sequence[int] | None = None,
) -> Table | None:
    """Returns a table, of text columns by default; None if it has no rows."""
    if not rows:
        return None
    return Table(
        name, title, header, rows, notes, tuple(range(len(header))) if left is None else left
    )
