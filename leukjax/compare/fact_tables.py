"""Tables of what is no score: cost, settings, flow of the images, leakage, versions, distortion."""

from collections.abc import Sequence

from leukjax.compare import provenance, robustness_curves
from leukjax.compare.analysis import Study
from leukjax.compare.load_results import Entry, Run
from leukjax.compare.robustness_curves import Point
from leukjax.metrics.intervals import Interval
from leukjax.report.tables import Cell, Table
from leukjax.rundir import RunDir

_PARTS = {"all": "all images", "train": "training", "val": "validation",
          "test": "test", "held_out": "held out of all folds", "unused": "in no part",
          "skipped": "skipped as unreadable"}  # fmt: skip
# What a run of a cross-validation calls test is what its fold leaves out; the test is another part.
_PARTS_OF_A_FOLD = {"train": "training, first fold", "val": "validation, first fold",
                    "test": "left out of the first fold (scored out of fold)",
                    "held_out": "held-out test"}  # fmt: skip


def cost(study: Study) -> Table | None:
    """Parameters, FLOPs, speed and time of every model."""
    rows: list[list[Cell]] = []
    for entry in study.entries:
        if not entry.runs:
            continue
        one = provenance.cost(entry)
        rate = None if one.images_per_second is None else round(one.images_per_second)
        seconds = None if one.seconds is None else f"{one.seconds / 60:.1f}"
        flops = None if one.flops is None else f"{one.flops / 1e9:.3g}"
        rows.append(
            [entry.name, one.model, one.parameters, flops, rate, seconds, one.runs, one.device]
        )
    if not rows:
        return None
    header = ["", "model", "parameters", "GFLOPs an image", "images/s", "minutes", "runs", "device"]
    return Table(
        "cost",
        f"What the models take on {study.about.data}",
        header,
        rows,
        ["GFLOPs: multiply and add counted apart, forward. Images/s: of training, median over"
         " epochs. Minutes: training and validation of one run. Machines that do other work beside"
         " make both worse."],
        left=(0, 1, 7),
    )  # fmt: skip


def settings(study: Study) -> Table | None:
    """What the models share and what differs."""
    with_runs = [entry for entry in study.entries if entry.runs]
    if not with_runs:
        return None
    columns = [provenance.settings(entry) for entry in with_runs]
    rows: list[list[Cell]] = [
        [name, *(column[name] for column in columns), "shared" if len(values) == 1 else "differs"]
        for name in columns[0]
        if (values := {column[name] for column in columns})
    ]
    header = ["", *(entry.name for entry in with_runs), ""]
    return Table("settings", "What the models share, and what differs", header, rows,
                 ["Every field: config.json of each run."],
                 left=tuple(range(len(header))))  # fmt: skip


def flow(study: Study) -> Table | None:
    """Images and subjects from the source to each part."""
    entry = next((entry for entry in study.shown if entry.runs), None)
    if entry is None:
        return None
    names = {**_PARTS, **(_PARTS_OF_A_FOLD if entry.folds else {})}
    rows: list[list[Cell]] = [
        [names[s.part], s.of or "all", s.images, s.subjects or None, s.groups or None]
        for s in provenance.flow(entry.runs[0])
    ]
    kind = " (first fold of the cross-validation)" if entry.folds else ""
    return Table("flow", f"Images and subjects from source to test{kind}: {study.about.data}",
                 ["part", "class", "images", "subjects", "groups"], rows,
                 ["Groups: subjects joined by identical images; a group is never on two sides of an"
                  " honest split.",
                  f"The scores of this report are of: {study.about.part}."],
                 left=(0, 1))  # fmt: skip


def leakage(study: Study) -> Table | None:
    """What lies on both sides of each model's split."""
    rows: list[list[Cell]] = []
    for entry in study.entries:
        if entry.runs:
            run = entry.runs[0]
            found = provenance.leakage(run)
            rows.append([entry.name, run.summary["protocol"], found.subjects, found.groups,
                         f"{found.identical_across:,} of {found.identical:,}",
                         f"{found.near_across:,} of {found.near:,}",
                         "LEAKY" if found.groups else "none"])  # fmt: skip
    if not rows:
        return None
    header = ["", "split", "subjects on two sides", "groups on two sides",
              "identical pairs across parts", "similar pairs across parts", "leakage"]  # fmt: skip
    return Table("leakage", "What lies on more than one side of the split", header, rows,
                 ["Counted from split.csv and duplicates.csv of the first run of each model."],
                 left=(0, 1, 6))  # fmt: skip


def choices(study: Study) -> Table | None:
    """What chose the epoch and the threshold, and how often test was accessed."""
    rows: list[list[Cell]] = []
    for entry in study.entries:
        if entry.runs:
            chosen = ", ".join(f"{run.summary['epoch_chosen']:g}" for run in entry.runs[:6])
            chosen += ", …" if len(entry.runs) > 6 else ""
            opened = _openings(entry)
            rows.append([entry.name, chosen, entry.runs[0].summary["chosen_by"],
                         "class with the largest probability", opened])  # fmt: skip
    if not rows:
        return None
    header = ["", "epoch", "epoch chosen by", "threshold", "test opened"]
    return Table("choices", "What chose epoch and threshold", header, rows,
                 left=(0, 1, 2, 3, 4))  # fmt: skip


def _openings(entry: Entry) -> str:
    """How often the test images were read: by the ledger of a study, or by each run."""
    if entry.out_of_fold is not None and entry.study is not None:
        accesses = [line["model"] for line in RunDir(entry.study).study_accesses()]
        if accesses:
            return f"{accesses.count(entry.name)} (for the ensemble)"
    return ", ".join(dict.fromkeys(str(_openings_of(run)) for run in entry.runs))


def _openings_of(run: Run) -> int:
    """By the run's ledger, which goes on after the run has ended."""
    return RunDir(run.folder).test_accesses() or int(run.summary["test_openings"])


def trials(study: Study) -> Table | None:
    """All trials of a sweep, chosen or not, of every crossval folder."""
    folders = dict.fromkeys(entry.study for entry in study.shown if entry.study)
    header: list[str] = []
    rows: list[list[Cell]] = []
    for folder in folders:
        own, lines = RunDir(folder).csv_rows("trials.csv")
        if lines and (not header or own == header):
            header = own
            rows += [[_number_or_text(cell) for cell in line] for line in lines]
    if not rows:
        return None
    return Table("trials", "Every trial of the sweep, on the validation part of its fold", header,
                 rows, ["Every model had the same number of trials. Test took no part in them."],
                 left=(0, 5))  # fmt: skip


def _number_or_text(cell: str) -> Cell:
    try:
        return float(cell) if "." in cell else int(cell)
    except ValueError:
        return cell


def versions(study: Study) -> Table | None:
    """Software, hardware and checksums."""
    with_runs = [entry for entry in study.entries if entry.runs]
    if not with_runs:
        return None
    names = list(dict.fromkeys(name for e in with_runs for name in e.runs[0].summary["versions"]))
    rows: list[list[Cell]] = [
        [name, *(e.runs[0].summary["versions"].get(name, "–") for e in with_runs)] for name in names
    ]
    rows.append(["device", *(e.runs[0].summary["device"] for e in with_runs)])
    for name in ("records_sha256", "split_sha256"):
        rows.append([name, *(e.runs[0].data[name][:16] + "…" for e in with_runs)])
    header = ["", *(entry.name for entry in with_runs)]
    return Table("versions", "Versions, hardware and checksums of the first run of each model",
                 header, rows, left=tuple(range(len(header))))  # fmt: skip


def mistakes(study: Study, rows_of: Sequence) -> Table:
    """The mistakes that each model was most sure of."""
    rows: list[list[Cell]] = []
    for entry, chosen in zip(study.shown, rows_of, strict=True):
        p = entry.predictions
        for row in chosen:
            called = int(p.probabilities[row].argmax())
            rows.append([entry.name, str(p.id[row]), str(p.subject[row]),
                         p.classes[p.labels[row]], p.classes[called],
                         float(p.probabilities[row, called])])  # fmt: skip
    header = ["", "id", "subject", "is", "was called", "probability"]
    return Table("mistakes", f"Most confident mistakes on {study.about.data}, {study.about.part}",
                 header, rows, left=(0, 1, 2, 3, 4))  # fmt: skip


def distortion(study: Study, models: dict[str, list[Point]]) -> Table:
    """The largest severity of each distortion: score, drop, and drop relative to the CNN's."""
    everything = [point for points in models.values() for point in points]
    score = robustness_curves.score_of(everything)
    reference = _reference(study.entries, models)
    worst = max((p.severity for p in everything), default=0)
    bases = {(p.distortion, p.background): p for p in models.get(reference, [])
             if p.score == score and p.severity == worst}  # fmt: skip
    rows: list[list[Cell]] = []
    for model, points in models.items():
        for p in points:
            if p.score != score or p.severity != worst:
                continue
            base = bases.get((p.distortion, p.background))
            # A ratio to a drop that may be nothing says nothing.
            certain = base is not None and base.drop_low is not None and base.drop_low > 0
            own = base.drop if base is not None and certain else None
            relative = p.drop / own if p.drop is not None and own else None
            groups = int(p.groups or 0)
            value = Interval(p.value, p.low, p.high, "jackknife", groups)
            drop = Interval(p.drop, p.drop_low, p.drop_high, "jackknife", groups)
            names = [p.distortion.replace("_", " "), p.background.replace("_", " ")]
            rows.append([model, *names, value, drop, relative, groups])
    rows.sort(key=lambda row: (str(row[0]), -_value(row[4])))
    header = ["", "distortion", "background", score.replace("_", " "), "drop",
              f"drop / {reference}'s", "groups"]  # fmt: skip
    title = f"Severity {worst} of every distortion on {study.about.data}"
    return Table("robustness", title, header, rows,
                 ["With each number its 95 % interval by group; every severity and score:"
                  " robustness/scores.csv of each run. A ratio is given where the drop of"
                  f" {reference} is more than chance."],
                 left=(0, 1, 2))  # fmt: skip


def _value(cell: Cell) -> float:
    return cell.value or 0.0 if isinstance(cell, Interval) else 0.0


def _reference(entries: Sequence[Entry], models: dict[str, list[Point]]) -> str:
    """The study's CNN; without one, its first model."""
    with_points = [entry for entry in entries if entry.name in models]
    cnns = [e for e in with_points if e.runs[0].config["model"]["name"] == "cnn"]
    return (cnns or with_points)[0].name
