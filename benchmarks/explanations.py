"""Evaluates explanations of trained runs on synthetic cells, where the truth is known.

python benchmarks/explanations.py --workdir=RUN[,RUN…] --output=docs/images

RUNs were trained on synthetic cells (smears). Prints the tables of docs/howto/explain.md and writes
explain-truth.png, explain-curves.png and explain-randomised.png. The cells are of new subjects.
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_list("workdir", None, "of finished runs on smears", required=True)
flags.DEFINE_string("output", "docs/images", "folder of the figures")
flags.DEFINE_integer("images", 24, "number of explained cells", lower_bound=2)
flags.DEFINE_integer("seed", 20_000, "of the cells; the runs were trained on seed 0")

CONTROLS = ("random", "centre Gaussian")
STEPS = 10  # of deletion and insertion
QUARTERS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Blasts with nucleoli, the same without, masks of the nucleoli; mature cells. 96 px."""

    plain: np.ndarray
    without: np.ndarray
    nucleoli: np.ndarray
    mature: np.ndarray


def draw(count: int, seed: int) -> Pairs:
    """Draws blasts with nucleoli of subjects 0, 2, …, three per subject."""
    from leukjax.data.synthetic import specimens

    results: list[list[np.ndarray]] = [[], [], []]
    index = 0
    while len(results[0]) < count:
        both = [
            specimens.draw_block(seed, index, 0, 12, changed=c)
            for c in ({}, {"nucleolus_radius": 0})
        ]
        rows = np.flatnonzero(both[0].nucleoli.sum((1, 2)) > 60)[:3]
        for kept, array in zip(
            results, (both[0].images, both[1].images, both[0].nucleoli), strict=True
        ):
            kept.extend(array[rows])
        index += 2
    healthy = [
        specimens.draw_block(seed, 1 + 2 * i, 0, 12).images[:3] for i in range(count // 3 + 1)
    ]
    return Pairs(*(np.stack(part[:count]) for part in results), np.concatenate(healthy)[:count])


class Subject:
    """One run, with the preprocessed cells and their maps."""

    def __init__(self, folder: str, pairs: Pairs):
        import cv2

        import leukjax
        from leukjax.explain import explainer, methods, network
        from leukjax.explain.maps import window_for

        self.model = leukjax.load(folder, batch_size=8).member
        self.family = self.model.preprocessing["model"]["name"]
        self.name = Path(folder).name
        size = self.model.image_size
        self.images = np.stack([self.model.preprocess(image) for image in pairs.plain])
        self.without = np.stack([self.model.preprocess(image) for image in pairs.without])
        self.mature = np.stack([self.model.preprocess(image) for image in pairs.mature])
        self.cells = self.images.any(-1)
        area = [
            cv2.resize(m.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
            for m in pairs.nucleoli
        ]
        self.nucleoli = np.stack(area) > 0.5
        explained = explainer.network_of(self.model)
        self.layer = network.choose_layer(explained, size)
        power = 4 if self.model.preprocessing["model"].get("norm") == "group" else 1
        self.settings = methods.Settings(self.layer, "log_odds", 64, power, *window_for(size))
        form = network.form_of(explained, size)
        self.methods = [name for name in methods.METHODS if methods.fits(name, form)]
        self.blast, self.healthy = (self.model.classes.index(c) for c in ("all", "hem"))

    def maps(
        self, method: str, images=None, model=None, settings=None, target=None, baseline="blurred"
    ) -> np.ndarray:
        """Returns maps at the size of the images, by default of the blasts."""
        from leukjax.explain import explainer

        images = self.images if images is None else images
        targets = np.full(len(images), self.blast if target is None else target)
        results = explainer.explain(
            model or self.model, images, targets, method, settings or self.settings, baseline
        )
        return explainer.to_image_size(results.maps, images.shape[1])

    def predict(self, images) -> np.ndarray:
        """Returns probabilities of preprocessed images."""
        return self.model.outputs(images).probabilities

    def log_odds(self, images) -> np.ndarray:
        """Returns the log-odds of class all."""
        p = self.predict(images)[:, self.blast].astype(np.float64)
        return np.log(p / (1 - p))

    def controls(self) -> dict[str, np.ndarray]:
        """Maps that know nothing of cell or network."""
        import explanation_checks as checks

        size, count = self.images.shape[1], len(self.images)
        noise = [checks.random_map(size, seed) for seed in range(count)]
        return {
            "random": np.stack(noise),
            "centre Gaussian": np.stack([checks.centre_gaussian(size)] * count),
        }


def auroc(map: np.ndarray, inside: np.ndarray, among: np.ndarray) -> float:
    """Returns the AUROC of the map for `inside` among the pixels of `among`."""
    import scipy.stats

    ranks = scipy.stats.rankdata(map[among])
    own = inside[among]
    n, m = own.sum(), (~own).sum()
    return float((ranks[own].sum() - n * (n + 1) / 2) / (n * m))


def truth(subject: Subject, maps: dict[str, np.ndarray]) -> dict[str, tuple[list, list]]:
    """Returns the AUROC of nucleoli among the cell's pixels, in cells where the network uses them.

    Of the map, and of its change when the nucleoli are removed: nucleoli are near the centre, so
    that a map of the centre also points at them.
    """
    drop = subject.log_odds(subject.images) - subject.log_odds(subject.without)
    used = np.flatnonzero((drop > 0.5) & (subject.nucleoli.sum((1, 2)) > 3))
    print(f"{subject.name}: without nucleoli the log-odds of all fall by {np.median(drop):.2f} "
          f"(median), by more than 0.5 in {len(used)} of {len(drop)} cells")  # fmt: skip
    results = {}
    for name, each in maps.items():
        lost = each - subject.maps(name, subject.without) if name not in CONTROLS else 0 * each
        results[name] = tuple(
            [auroc(m[i], subject.nucleoli[i], subject.cells[i]) for i in used] for m in (each, lost)
        )
    for name in ("integrated_gradients", "occlusion"):
        each = subject.maps(name, baseline="mean")
        values = [auroc(each[i], subject.nucleoli[i], subject.cells[i]) for i in used]
        print(f"  points at nucleoli with baseline mean: {name} {np.mean(values):.2f}")
    return results


def by_layer(subject: Subject) -> None:
    """The same for Grad-CAM at the last block of each stage."""
    from leukjax.explain import explainer, network

    if "gradcam" not in subject.methods:
        return
    known = network.layers(explainer.network_of(subject.model), subject.model.image_size)
    blocks = [n for n in known if "/" not in n and n.startswith(("layer", "stage"))]
    last = {n[:6]: n for n in blocks}
    for layer in [*last.values(), "feature_map"]:
        settings = dataclasses.replace(subject.settings, layer=layer)
        maps = {m: subject.maps(m, settings=settings) for m in ("gradcam", "hirescam")}
        values = {
            m: np.mean([auroc(x[i], subject.nucleoli[i], subject.cells[i])
                        for i in range(len(x)) if subject.nucleoli[i].any()])
            for m, x in maps.items()
        }  # fmt: skip
        grid = "x".join(str(n) for n in known[layer][:2])
        print(f"  {subject.name} {layer} ({grid}): " +
              ", ".join(f"{m} {v:.2f}" for m, v in values.items()))  # fmt: skip


def deletion(subject: Subject) -> dict:
    """Returns mean curves of mature cells: (baseline, way, map) -> probabilities of hem.

    Blasts show nothing: without chromatin and nucleoli a cell still looks like one.
    """
    import explanation_checks as checks

    from leukjax.explain.explainer import blurred

    images, results = subject.mature, {}
    maps = {m: subject.maps(m, images, target=subject.healthy) for m in subject.methods}
    maps |= subject.controls()
    for kind in ("blurred", "mean-cell"):
        for name, each in maps.items():
            both = []
            for image, map in zip(images, each, strict=True):
                cell = image.any(-1)
                blank = (
                    blurred(image, cell, image.shape[0] / 12)
                    if kind == "blurred"
                    else checks.mean_cell(image, cell)
                )
                both.append(
                    checks.curves(subject.predict, image, blank, map, cell, subject.healthy, STEPS)
                )
            for way, mean in zip(("deletion", "insertion"), np.mean(both, 0), strict=True):
                results[kind, way, name] = mean
    return results


def randomisation(subject: Subject, count: int = 8) -> dict:
    """(cascading or independent, method) -> mean rank correlation after each stage, head first."""
    import explanation_checks as checks

    from leukjax.explain import explainer

    net = explainer.network_of(subject.model)
    names = checks.layers(net, subject.model.image_size)
    stages = list(dict.fromkeys(name.split("/")[0] for name in names))[::-1]
    # Every third block of a deep network.
    stops = sorted({round(i) for i in np.linspace(1, len(stages), min(8, len(stages)))})
    images = subject.images[:count]
    settings = dataclasses.replace(subject.settings, steps=16)
    wanted = [m for m in subject.methods if m != "occlusion"]
    before = {m: subject.maps(m, images, settings=settings) for m in wanted}
    results: dict = {(way, m): [1.0] for way in ("cascading", "independent") for m in wanted}
    for stop in stops:
        for way in ("cascading", "independent"):
            chosen = stages[:stop] if way == "cascading" else [stages[stop - 1]]
            own = [name for name in names if name.split("/")[0] in chosen]
            variables = checks.randomised(net, own).variables
            model = dataclasses.replace(subject.model, variables=variables)
            for m in wanted:
                after = subject.maps(m, images, model, settings)
                pairs = zip(before[m], after, strict=True)
                results[way, m].append(np.mean([checks.rank_correlation(*p) for p in pairs]))
    return {"stages": ["none", *(stages[stop - 1] for stop in stops)], **results}


def turning(subject: Subject) -> dict[str, float]:
    """Rank correlation of maps with those of the turned image, turned back."""
    import explanation_checks as checks

    results = {}
    for method in subject.methods:
        if method == "occlusion":  # its windows do not rotate
            continue
        plain, values = subject.maps(method), []
        for quarter in QUARTERS:
            turned = subject.maps(method, np.rot90(subject.images, quarter, (1, 2)).copy())
            back = np.rot90(turned, -quarter, (1, 2))
            values += [checks.rank_correlation(a, b) for a, b in zip(plain, back, strict=True)]
        results[method] = float(np.mean(values))
    return results


def completeness(subject: Subject) -> None:
    """Prints the error of integrated gradients by number of steps."""
    from leukjax.explain import explainer

    for baseline, steps in ((b, n) for b in ("mean", "blurred") for n in (16, 32, 64, 128)):
        settings = dataclasses.replace(subject.settings, steps=steps)
        results = explainer.explain(subject.model, subject.images[:8], np.full(8, subject.blast),
                                "integrated_gradients", settings, baseline)  # fmt: skip
        gap = results.scores - results.baseline_scores
        error = np.abs(results.maps.sum((1, 2)) - gap)
        print(f"  baseline {baseline}, {steps} steps: error median {np.median(error):.4f}, largest "
              f"{error.max():.4f}; score less baseline's {np.abs(gap).mean():.1f}")  # fmt: skip


def main(_: list[str]) -> None:
    """Evaluates, prints, draws."""
    from explanation_figures import figure_curves, figure_randomised, figure_truth

    from leukjax import runtime
    from leukjax.report.style import save

    logging.set_verbosity(logging.ERROR)
    runtime.hold_memory()  # before JAX looks for devices, which loading a run does
    pairs, output = draw(FLAGS.images, FLAGS.seed), Path(FLAGS.output)
    pointed, deleted, shuffled = {}, {}, {}
    for folder in FLAGS.workdir:
        subject = Subject(folder, pairs)
        runtime.start(subject.model.config)
        print(f"{subject.name}: {subject.family}, {subject.model.image_size} px, {subject.layer}")
        maps = {m: subject.maps(m) for m in subject.methods} | subject.controls()
        pointed[subject.name] = truth(subject, maps)
        for name, (whole, lost) in pointed[subject.name].items():
            print(f"  points at nucleoli: {name} {np.mean(whole):.2f}, change {np.mean(lost):.2f}")
        by_layer(subject)
        completeness(subject)
        for name, value in turning(subject).items():
            print(f"  rotated: {name} {value:.2f}")
        deleted[subject.name] = deletion(subject)
        for (kind, way, name), mean in deleted[subject.name].items():
            print(f"  {way}, {kind}: {name} {mean.mean():.3f}")
        shuffled[subject.name] = randomisation(subject)
        for (way, name), values in (
            (k, v) for k, v in shuffled[subject.name].items() if k != "stages"
        ):
            print(f"  {way}: {name} " + " ".join(f"{value:.2f}" for value in values))
        # After each run, so that figures exist while the next one is evaluated.
        save(figure_truth(pointed, CONTROLS), output, "explain-truth", kinds=("png",))
        save(figure_curves(deleted, CONTROLS), output, "explain-curves", kinds=("png",))
        save(figure_randomised(shuffled), output, "explain-randomised", kinds=("png",))


if __name__ == "__main__":
    app.run(main)
