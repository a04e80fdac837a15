"""The model card of an exported folder, in the form of the Hugging Face hub. Nothing is sent."""

from typing import Any

import yaml

from leukjax import storage, terminal
from leukjax.errors import UserError
from leukjax.rundir import RunDir

CARD = "README.md"
_MAX_CARD = 2**20  # bytes of a run's model card
_SCORES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"}
_TAGS = ["image-classification", "leukjax", "jax", "microscopy", "leukaemia"]


def card(run_dir: RunDir, *, has_weights: bool) -> str:
    """Returns the run's model card below the metadata that the hub reads.

    No licence is stated: only the publisher can state one.

    Args:
      run_dir: a finished run.
      has_weights: whether the folder has ``model.safetensors``.

    Raises:
      UserError: the run is not finished, or its model card cannot be read.
    """
    summary = run_dir.summary()
    path = run_dir.folder / "model_card.md"
    try:
        text = terminal.escape(storage.read_text(path, _MAX_CARD))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); resume the run to its end") from error
    metadata = yaml.safe_dump(_metadata(summary), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n{text.rstrip()}\n\n{_usage(has_weights)}"


def _metadata(summary: dict[str, Any]) -> dict[str, Any]:
    test = summary.get("test")  # not checked when the file is read
    scores = test if isinstance(test, dict) else {}
    metrics = [
        {"type": name, "name": f"{title} by image", "value": round(scores[name], 4)}
        for name, title in _SCORES.items()
        if isinstance(scores.get(name), float)
    ]
    data = {"name": str(summary["data"]), "type": str(summary["data"])}
    return {
        "library_name": "leukjax",
        "pipeline_tag": "image-classification",
        "tags": [*_TAGS, *(["synthetic"] if summary["synthetic"] else [])],
        "model-index": [
            {
                "name": str(summary["model"]),
                "results": [
                    {"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}
                ],
            }
        ],
    }


def _usage(has_weights: bool) -> str:
    lines = [
        "## How to use",
        "",
        "Probabilities of images; needs jax, flatbuffers and Pillow, and no leukjax:",
        "",
        "```",
        "python predict.py IMAGE…",
        "```",
    ]
    if has_weights:
        lines += [
            "",
            "Fine-tune it on other images (`preprocessing.json` describes the network):",
            "",
            "```",
            "python -m leukjax.main --config=CONFIG --config.init.weights=hf://OWNER/NAME",
            "```",
        ]
    return "\n".join(lines) + "\n"
