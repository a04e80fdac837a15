from leukjax import config
from leukjax.report.model_card import model_card, over_shortcuts_line
from leukjax.report.provenance import About

SUMMARY = {
    "model": "CNN",
    "parameters": 163602,
    "flops_per_image": 8.1e6,
    "data": "cnmc",
    "protocol": "official",
    "classes": ["all", "hem"],
    "positive": "all",
    "seed": 3,
    "epoch_chosen": 7.0,
    "chosen_by": "loss on val",
    "test_openings": 2,
    "device": "1 x CPU",
    "processor": "Some Processor 3000 (x86_64)",
    "over_shortcuts": {
        "score": "balanced_accuracy",
        "baseline": "shortcuts alone",
        "difference": 0.004,
        "low": -0.01,
        "high": 0.018,
        "groups": 28,
        "reason": "",
    },
    "versions": {"leukjax": "0.1.0", "jax": "0.10"},
    "test": {"groups": 28},
    "data_warnings": ["no patients: intervals are by image"],
}
PARTS = {"train": (7108, 51), "val": (3553, 22), "test": (1867, 28)}


def card(**about):
    return model_card(
        SUMMARY,
        config.load("cnn").to_dict(),
        About("cnmc", "test", ("all", "hem"), "all", **about),
        PARTS,
        "## Test scores on cnmc\n\n| | accuracy |\n",
    )


def test_the_card_has_the_facts_of_the_run():
    text = card()
    for sentence in (
        "# Model card: CNN on cnmc",
        "163,602 parameters",
        "Positive: all",
        "seed 3",
        "Epoch 7 was chosen by loss on val",
        "train 7,108 images of 51 subjects, val 3,553 images of 22 subjects",
        "test 1,867 images of 28 subjects",
        "The test images had been accessed 2 times",
        "28 groups",
        "1 x CPU, Some Processor 3000 (x86_64)",
        "Balanced accuracy over the shortcuts alone: +0.004 (95 % CI -0.010 to +0.018 over 28"
        " groups): this test does not show that the model uses more than these numbers.",
        "No medical device",
        "### Test scores on cnmc",
    ):
        assert sentence in text, sentence
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Model details",
        "## Intended use",
        "## Factors",
        "## Training data",
        "## Evaluation data",
        "## Metrics",
        "## Ethical considerations",
        "## Caveats",
    ]
    assert "SYNTHETIC" not in text


def test_warnings_are_caveats():
    text = card(synthetic=True, leaky=True, subjects_known=False)
    caveats = text[text.index("## Caveats") :]
    assert "SYNTHETIC" in caveats
    assert "LEAKY" in caveats
    assert "each image counts as its own" in text
    assert "On the data: no patients: intervals are by image." in caveats


def test_a_model_that_beats_the_shortcuts_is_not_doubted():
    over = SUMMARY["over_shortcuts"] | {"difference": 0.2, "low": 0.1, "high": 0.3}
    line = over_shortcuts_line(over)
    assert line.endswith("+0.200 (95 % CI +0.100 to +0.300 over 28 groups).")
    none = {"difference": None, "low": None, "high": None, "reason": "a class is missing"}
    assert over_shortcuts_line(none).endswith("undefined; a class is missing.")
    without_interval = {"difference": 0.1, "low": None, "high": None, "reason": "one group"}
    assert over_shortcuts_line(without_interval).endswith("+0.100; no interval, one group.")
    level = {**without_interval, "difference": 0.0}
    assert "+0.000: this test does not show that the model uses more" in over_shortcuts_line(level)
