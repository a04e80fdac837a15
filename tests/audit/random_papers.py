"""Random papers without errors: every number comes from a random confusion matrix."""

import copy
import random
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np

MODELS = ("CNN", "ResNet-50", "hybrid ViT")


def rounded(value: float, digits: int) -> Decimal:
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)


def paper(seed: int) -> dict:
    """The content of a TOML file, numbers as Decimal."""
    draw = np.random.default_rng(seed)
    split = {part: int(draw.integers(low, 3 * low)) for part, low in
             (("train", 2000), ("val", 400), ("test", 500))}  # fmt: skip
    classes = {
        part: {"blast": positives, "healthy": n - positives}
        for part, n in split.items()
        for positives in [int(n * draw.uniform(0.35, 0.65))]
    }
    total = sum(split.values())
    names = list(MODELS[: int(draw.integers(2, 4))])
    skill = {name: draw.uniform(0.75, 0.95) for name in names}
    return {
        "paper": {"title": f"Paper {seed}"},
        "data": {
            "name": "our own smears",
            "images": total,
            "split_claimed": {part: rounded(n / total, 2) for part, n in split.items()},
            "split_printed": split,
            "classes_printed": classes,
            "unit_of_split": "patient",
            "positive_class": "blast",
        },
        "training": {"learning_rate": Decimal("0.001"), "seeds": 3, "epochs": 50},
        "evaluation": {"intervals": "by patient", "distortion_experiment": "blur"},
        "curve": [
            {"model": name, "rows": curve_rows(draw, skill[name], classes["val"])} for name in names
        ],
        "test": [
            {"model": name, "percent": percents(scores(draw, skill[name], classes["test"]))}
            for name in names
        ],
    }


def scores(draw: np.random.Generator, skill: float, classes: dict[str, int]) -> list[float]:
    """Accuracy, precision, recall and F1 of a random confusion matrix."""
    positives, negatives = classes["blast"], classes["healthy"]
    tp = max(1, int(draw.binomial(positives, skill)))
    fp = negatives - int(draw.binomial(negatives, skill))
    accuracy = (tp + negatives - fp) / (positives + negatives)
    return [accuracy, tp / (tp + fp), tp / positives, 2 * tp / (positives + tp + fp)]


def curve_rows(draw: np.random.Generator, skill: float, classes: dict[str, int]) -> list[list]:
    rows, loss = [], 0.7
    for epoch in (1, 10, 20, 30, 40, 50):
        loss *= draw.uniform(0.7, 0.95)
        now = 0.7 + (skill - 0.7) * (1 - 0.5 ** (epoch / 5))
        losses = [rounded(loss * draw.uniform(0.8, 1), 3), rounded(loss, 3)]
        rows.append([epoch, *losses, *(rounded(x, 4) for x in scores(draw, now, classes))])
    return rows


def percents(values: list[float]) -> dict[str, Decimal]:
    names = ("accuracy", "precision", "recall", "f1")
    return {name: rounded(100 * x, 2) for name, x in zip(names, values, strict=True)}


def changed(content: dict, seed: int) -> tuple[dict, str, tuple]:
    """Returns the paper with one number changed, the kind of this number, and its position."""
    draw, content = random.Random(seed), copy.deepcopy(content)
    what = draw.choice(("images", "part", "class", "row", "row", "row", "test", "test"))
    by = draw.choice((-1, 1)) * draw.randint(1, 60)
    if what == "images":
        content["data"]["images"] += by
        return content, what, ()
    part = draw.choice(("train", "val", "test"))
    if what == "part":
        content["data"]["split_printed"][part] += by
        return content, what, (part,)
    if what == "class":
        content["data"]["classes_printed"][part]["blast"] += by
        return content, what, (part,)
    entry = draw.randrange(len(content["test"]))
    if what == "row":
        row, column = draw.randrange(6), draw.randrange(3, 7)
        content["curve"][entry]["rows"][row][column] += by * Decimal("0.0001")
        return content, what, (entry, row, column)
    name = draw.choice(("accuracy", "precision", "recall", "f1"))
    content["test"][entry]["percent"][name] += by * Decimal("0.01")
    return content, what, (entry, name)


def possible(values: list[Decimal], classes: dict[str, int]) -> bool:
    """Whether any confusion matrix prints these four, by trying all of them, either class positive.

    Written apart from the checks, which never look at all matrices.
    """
    for positives in classes.values():
        negatives = sum(classes.values()) - positives
        tp = np.arange(positives + 1)[:, None]
        fp = np.arange(negatives + 1)[None, :]
        with np.errstate(invalid="ignore"):
            scores = (
                (tp + negatives - fp) / (positives + negatives),
                tp / (tp + fp),
                tp / positives + 0 * fp,
                2 * tp / (positives + tp + fp),
            )
        half = 0.5 * 10.0 ** values[0].as_tuple().exponent
        fits = [abs(x - float(v)) <= half + 1e-12 for x, v in zip(scores, values, strict=True)]
        if np.logical_and.reduce(fits).any():
            return True
    return False


def toml(content: dict) -> str:
    """The content as a TOML document."""
    lines = []
    for section, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            lines.append(f"[[{section}]]" if isinstance(value, list) else f"[{section}]")
            lines += [f"{key} = {_value(item)}" for key, item in entry.items()]
    return "\n".join(lines) + "\n"


def _value(item) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{key} = {_value(x)}" for key, x in item.items()) + "}"
    if isinstance(item, list):
        return "[" + ", ".join(map(_value, item)) + "]"
    return f'"{item}"' if isinstance(item, str) else str(item)
