from leukjax import config
from leukjax.report.about import About
from leukjax.report.model_card import model_card

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
    "versions": {"leukjax": "0.1.0", "jax": "0.10"},
    "test": {"groups": 28},
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


def test_the_card_says_what_the_run_knows():
    text = card()
    for said in (
        "# Model card: CNN on cnmc",
        "163,602 parameters",
        "Positive: all",
        "seed 3",
        "Epoch 7 was chosen by loss on val",
        "train 7,108 images of 51 subjects, val 3,553 images of 22 subjects",
        "test 1,867 images of 28 subjects",
        "Test was opened 2 times",
        "28 groups",
        "No medical device",
        "### Test scores on cnmc",
    ):
        assert said in text, said
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
