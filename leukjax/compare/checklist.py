"""The topics of CLAIM 2024, TRIPOD+AI and STARD-AI: what a run fills, and what only people know.

Tejani et al. 2024, Radiology: AI 6:e240300 (CLAIM); Collins et al. 2024, BMJ 385:e078378
(TRIPOD+AI); Sounderajah et al. 2025, Nature Medicine 31:3283 (STARD-AI). The topics are put in our
words and are not numbered as theirs; the checklists themselves are to be filled in beside.
"""

from leukjax.compare.analysis import Study
from leukjax.compare.verdict import sample
from leukjax.report.tables import Cell, Table

ALL = "CLAIM, TRIPOD+AI, STARD-AI"
AUTHOR = ""  # nothing in a run speaks of it


def checklist(study: Study, sections: set[str]) -> Table:
    """What is filled from the runs, where it stands, and what the author must add.

    Args:
        study: the comparison.
        sections: names of the sections that the report has; a topic whose section is missing is not
            filled.
    """
    rows: list[list[Cell]] = []
    for topic, asked, section, author in _TOPICS:
        filled = section in sections
        rows.append(
            [
                topic,
                asked,
                _FILLED[section](study) if filled else "nothing",
                section if filled else "–",
                author or "–",
            ]
        )
    header = ["topic", "asked by", "filled from the runs", "section", "only the author can state"]
    return Table("checklist", "Topics of CLAIM 2024, TRIPOD+AI and STARD-AI", header, rows,
                 ["Topics in our words; the published checklists number and word them otherwise."],
                 left=(0, 1, 2, 3, 4))  # fmt: skip


_FILLED = {
    "flow": lambda s: f"{sample(s)} tested; numbers by part and class",
    "data": lambda s: f"data set {s.about.data}, split, checksums, duplicates, leakage",
    "models": lambda _: "architectures, parameters, settings shared and different",
    "training": lambda _: "loss and accuracy by epoch; epochs chosen and by what",
    "scores": lambda s: (
        f"scores with intervals by group; positive class {s.about.positive or 'none'}"
    ),
    "comparison": lambda _: "paired tests by group, Holm's adjustment, differences with intervals",
    "power": lambda _: "differences that this number of groups could show",
    "calibration": lambda _: "reliability with intervals, temperature scaling",
    "subjects": lambda _: "scores of every subject",
    "mistakes": lambda _: "the most confident mistakes",
    "robustness": lambda _: "scores under distortion",
    "reproduction": lambda _: "versions, hardware, seeds, checksums",
}

# Topic, who asks, section of the report that answers, what the report cannot know.
_TOPICS = (
    ("Title and abstract say that it is an AI study", ALL, AUTHOR, "title, structured abstract"),
    ("Clinical background and intended use", ALL, AUTHOR, "purpose, users, place in the pathway"),
    ("Study design, registration, protocol", ALL, AUTHOR, "prospective or retrospective, where"
     " registered"),
    ("Ethics, consent, de-identification", ALL, AUTHOR, "approvals, and how identity was removed"),
    ("Source of the data", ALL, "data", "setting, centres, dates, microscopes and stains"),
    ("Eligibility of patients and images", ALL, "flow", "criteria of inclusion and exclusion"),
    ("Participant flow", ALL, "flow", "patients lost before the images were there"),
    ("Characteristics of participants by part", ALL, AUTHOR, "age, sex, subtype, treatment"),
    ("Missing and unreadable data", ALL, "flow", "why they are missing"),
    ("Preparation of the images", ALL, "models", "what was done before the files were received"),
    ("Reference standard", ALL, AUTHOR, "who labelled, by which test, how they agreed"),
    ("Definition of classes and positive class", ALL, "scores", "why this class is positive"),
    ("Partition of the data and its unit", ALL, "data", AUTHOR),
    ("Independence of training and test", ALL, "data", AUTHOR),
    ("Sample size", ALL, "power", "the difference that would matter, planned beforehand"),
    ("Model and its inputs and outputs", ALL, "models", AUTHOR),
    ("Initial weights and their source", "CLAIM", "models", "licence of pre-trained weights"),
    ("Training: augmentation, optimiser, settings", ALL, "models", "how the settings were found"),
    ("Choice of the final model and threshold", ALL, "training", AUTHOR),
    ("Measures of performance with uncertainty", ALL, "scores", "which measure matters, and why"),
    ("Comparison between models", ALL, "comparison", "whether it was planned beforehand"),
    ("Calibration", "CLAIM, TRIPOD+AI", "calibration", AUTHOR),
    ("Robustness and sensitivity analyses", ALL, "robustness", AUTHOR),
    ("Performance in subgroups and fairness", ALL, "subjects", "subgroups by age, sex, centre"),
    ("Analysis of failures", "CLAIM, STARD-AI", "mistakes", "what experts see in them"),
    ("Explanation of predictions", "CLAIM", AUTHOR, "attribution maps (leukjax.explain)"),
    ("Test on external data", ALL, AUTHOR, "data of another centre; none is in this report"),
    ("Software, hardware, reproducibility", ALL, "reproduction", "where code and weights are"),
    ("Patient and public involvement", "TRIPOD+AI", AUTHOR, "who was asked, and what changed"),
    ("Limits, bias, generalisability", ALL, AUTHOR, "discussion"),
    ("Funding and conflicts of interest", ALL, AUTHOR, "statement"),
)  # fmt: skip
