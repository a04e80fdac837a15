"""Writes finished work directories without training: the files of runs, random predictions."""

import json
from pathlib import Path

import numpy as np

from leukjax import config
from leukjax.metrics.predictions import Predictions

CLASSES = ("all", "hem")
VERSIONS = {"leukjax": "0.1.0", "jax": "0.10.2"}


def subjects(parts, classes=2, cells=9, seed=0):
    """Returns columns of all images: id, subject, label, part; each subject has one class.

    Args:
      parts: number of subjects of each part.
      classes: number of classes.
      cells: mean number of images of a subject.
      seed: of the random numbers of images.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for part, number in parts.items():
        for s in range(number):
            for i in range(rng.integers(cells - 3, cells + 4)):
                rows.append((f"{part}{s:02}_{i:02}", f"{part}{s:02}", s % classes, part))
    return [np.array(column) for column in zip(*rows, strict=True)]


def predict(columns, skill, seed, classes=CLASSES, temperature=1.0):
    """Returns predictions of a model: better with `skill`, with subjects that are hard for all."""
    ids, subject, labels, _ = columns
    names, member = np.unique(subject, return_inverse=True)
    hard = np.random.default_rng(99).normal(size=(len(names), len(classes)))[member]
    noise = np.random.default_rng(seed).normal(size=(len(ids), len(classes)))
    logits = skill * np.eye(len(classes))[labels] + 0.6 * hard + noise
    p = np.exp(logits / temperature)
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    return Predictions(tuple(classes), ids, subject, subject, labels, p)


def take(columns, part):
    return [column[columns[3] == part] for column in columns]


def write_run(
    folder: Path,
    skill: float,
    *,
    seed: int = 0,
    model: str = "cnn",
    leaky: bool = False,
    classes=CLASSES,
    columns=None,
    epochs: int = 12,
    fold: int = 0,
    **changes,
) -> Path:
    """Writes a finished run; `changes` replace fields of summary.json."""
    parts = {"train": 12, "val": 6, "test": 8}
    columns = subjects(parts, len(classes)) if columns is None else columns
    (folder / "predictions").mkdir(parents=True)
    chosen = config.load(model).to_dict()
    chosen["seed"], chosen["split"]["fold"] = seed, fold
    for part in ("val", "test"):
        # Validation and test differ only in the seed.
        p = predict(take(columns, part), skill, 10 * seed + (part == "test") + fold, classes)
        p.write(folder / "predictions" / f"{part}.csv")
    lines = ["id,subject,group,label,part"]
    lines += [
        f"{i},{s},{s},{classes[label]},{part}" for i, s, label, part in zip(*columns, strict=True)
    ]
    (folder / "split.csv").write_text("\n".join(lines) + "\n")
    pairs = "id_a,id_b,kind,distance,group_a,group_b,same_group\n"
    pairs += f"{columns[0][0]},{columns[0][-1]},near,3,{columns[1][0]},{columns[1][-1]},no\n"
    (folder / "duplicates.csv").write_text(pairs)
    rng = np.random.default_rng(seed)
    names = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")
    history = []
    for e in range(1, epochs + 1):
        train = {"step": 5 * e, "epoch": float(e), "part": "train", "loss": 1 / e, "accuracy": 0.7}
        history.append(train | {"images_per_second": 100.0 + e, "elapsed": 2.0 * e})
        val = {"step": 5 * e, "epoch": float(e), "part": "val", "loss": 1.1 / e}
        history.append(val | {name: float(rng.uniform(0.5, 0.9)) for name in names})
    text = "".join(json.dumps(line) + "\n" for line in history)
    (folder / "metrics.jsonl").write_text(text)
    summary = {
        "model": model.upper(),
        "parameters": 1234,
        "flops_per_image": 5e6,
        "data": "smears",
        "synthetic": True,
        "subjects_known": True,
        "protocol": "image" if leaky else "subject",
        "leaky": leaky,
        "classes": list(classes),
        "positive": classes[0] if len(classes) == 2 else "",
        "epoch_chosen": 4.0,
        "chosen_by": "balanced_accuracy on val",
        "test_openings": 1,
        "seconds_trained": 60.0,
        "device": "1 x CPU",
        "versions": VERSIONS,
    }
    sums = {"records_sha256": "a" * 64, "split_sha256": "b" * 64}
    for name, content in (("config", chosen), ("data", sums), ("summary", summary | changes)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_crossval(folder: Path, skills: dict, *, folds=3, seeds=(0, 1), held_out: bool) -> Path:
    """Writes a crossval folder: every subject is in the test part of one fold."""
    columns = subjects({"train": 15}, cells=8)
    member = np.unique(columns[1], return_inverse=True)[1]
    models: dict = {}
    for model, skill in skills.items():
        runs = []
        for seed in seeds:
            for fold in range(folds):
                index = (member // 2 + fold) % folds  # pairs of subjects: one of each class
                part = np.array(["test", "val", "train"])[np.minimum(index, 2)]
                run = f"runs/{model}/fold{fold}-seed{seed}"
                write_run(folder / run, skill, seed=seed, fold=fold, model=model,
                          columns=[*columns[:3], part], epochs=3)  # fmt: skip
                runs.append(run)
        models[model] = {"config": f"configs/{model}.py", "runs": runs}
        if held_out:
            test = subjects({"held": 8}, seed=5)
            predict(test, skill, 77).write(folder / "predictions" / "test" / f"{model}.csv")
            for seed in seeds:
                members = folder / "predictions" / "test_members" / model
                predict(test, skill, 80 + seed).write(members / f"fold0-seed{seed}.csv")
    content = {"models": models, "folds": folds, "seeds": list(seeds), "pool": not held_out,
               "sweep": None}  # fmt: skip
    (folder / "crossval.json").write_text(json.dumps(content))
    head = "model,fold,trial,seed,optimizer.learning_rate,metric,score,epoch,chosen,failure\n"
    (folder / "trials.csv").write_text(
        head + "".join(f"{model},0,0,0,3e-4,balanced_accuracy,0.5,1,1,\n" for model in skills)
    )
    lines = [json.dumps({"model": model, "part": "held_out", "runs": 6}) for model in skills]
    (folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    return folder
