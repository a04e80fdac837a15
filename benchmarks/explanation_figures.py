"""The figures of `explanations.py`."""

import numpy as np
from matplotlib.figure import Figure

from leukjax.explain.methods import METHODS
from leukjax.report.style import CLASSES, GREY, LINES, MARKERS, style

COLOURS = dict(zip(METHODS, (*CLASSES, "#000000"), strict=False))


def title_of(name: str) -> str:
    """Returns the title of a method or a control map."""
    return METHODS[name].title if name in METHODS else name


def figure_truth(pointed: dict, controls: tuple[str, ...]) -> Figure:
    """Draws one point per cell and method, one column per run; maps above, changes below."""
    random = np.random.default_rng(0)
    with style():
        figure = Figure(figsize=(1 + 2.9 * len(pointed), 6.2), facecolor="white")
        grid = figure.subplots(2, len(pointed), squeeze=False, sharex=True)
        figure.suptitle("Do maps point at the nucleoli?\n(synthetic cells)",
                        fontweight="bold", fontsize=10)  # fmt: skip
        for column, (run, values) in zip(grid.T, pointed.items(), strict=True):
            names = list(values)[::-1]
            for which, axes in enumerate(column):
                for position, name in enumerate(names):
                    points = np.array(values[name][which])
                    jitter = position + random.uniform(-0.18, 0.18, len(points))
                    colour = GREY if name in controls else COLOURS[name]
                    axes.scatter(points, jitter, s=8, color=colour, alpha=0.5, lw=0)
                    axes.plot(
                        [points.mean()] * 2, [position - 0.3, position + 0.3], color="black", lw=1.6
                    )
                axes.axvline(0.5, color=GREY, lw=0.8, ls=":")
                axes.set_yticks(range(len(names)), [title_of(name) for name in names], fontsize=7)
                what = "the map" if which == 0 else "its change without nucleoli"
                axes.set_title(f"{run}: {what}", fontsize=8)
                axes.set(xlim=(0, 1.02))
                axes.tick_params(axis="x", labelsize=7)
            column[-1].set_xlabel("AUROC of nucleoli among the cell's pixels", fontsize=7)
    return figure


def figure_curves(deleted: dict, controls: tuple[str, ...]) -> Figure:
    """Draws one row per run: deletion and insertion with each baseline."""
    kinds = [(way, kind) for kind in ("blurred", "mean-cell") for way in ("deletion", "insertion")]
    with style():
        figure = Figure(figsize=(9, 0.9 + 1.9 * len(deleted)), facecolor="white")
        grid = figure.subplots(len(deleted), 4, squeeze=False, sharex=True, sharey=True)
        figure.suptitle("Mature cells: pixels deleted and inserted, largest on the map first "
                        "(synthetic cells)", fontweight="bold", fontsize=10)  # fmt: skip
        handles = {}
        for row, (run, results) in zip(grid, deleted.items(), strict=True):
            for axes, (way, kind) in zip(row, kinds, strict=True):
                for own_kind, own_way, name in results:
                    if (own_kind, own_way) != (kind, way):
                        continue
                    mean = results[kind, way, name]
                    control = name in controls
                    (line,) = axes.plot(
                        np.linspace(0, 1, len(mean)), mean,
                        color=GREY if control else COLOURS[name], lw=1.2,
                        ls=LINES[1 + controls.index(name)] if control else "-",
                    )  # fmt: skip
                    handles.setdefault(title_of(name), line)
                axes.set_title(f"{run}: {way}, {kind}", fontsize=7)
                axes.tick_params(labelsize=7)
        for axes in grid[-1]:
            axes.set_xlabel("share of the cell's pixels", fontsize=7)
        figure.supylabel("mean probability of hem", fontsize=8)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def figure_randomised(shuffled: dict) -> Figure:
    """Draws one row per run: cascading, and layer by layer."""
    with style():
        figure = Figure(figsize=(8, 0.9 + 2.2 * len(shuffled)), facecolor="white")
        grid = figure.subplots(len(shuffled), 2, squeeze=False, sharey=True)
        figure.suptitle("Maps after parameters were randomised (synthetic cells)",
                        fontweight="bold", fontsize=10)  # fmt: skip
        handles = {}
        for row, (run, results) in zip(grid, shuffled.items(), strict=True):
            for axes, way in zip(row, ("cascading", "independent"), strict=True):
                for number, (own_way, name) in enumerate(k for k in results if k != "stages"):
                    if own_way != way:
                        continue
                    (line,) = axes.plot(results[own_way, name], marker=MARKERS[number % 6], ms=3,
                                        color=COLOURS[name], lw=1.2)  # fmt: skip
                    handles.setdefault(title_of(name), line)
                axes.axhline(0, color=GREY, lw=0.8, ls=":")
                stages = results["stages"]
                axes.set_xticks(range(len(stages)), stages, rotation=45, ha="right", fontsize=6)
                axes.tick_params(axis="y", labelsize=7)
                title = "from the head down to" if way == "cascading" else "this part alone"
                axes.set_title(f"{run}: {title}", fontsize=8)
        figure.supylabel("rank correlation with the map of the trained network", fontsize=8)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure
