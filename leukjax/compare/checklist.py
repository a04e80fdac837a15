"""The topics of CLAIM 2024, TRIPOD+AI and STARD-AI: what a run fills, and what the author must add.

Tejani et al. 2024, Radiology: AI 6:e240300 (CLAIM); Collins et al. 2024, BMJ 385:e078378
(TRIPOD+AI); Sounderajah et al. 2025, Nature Medicine 31:3283 (STARD-AI). The topics are paraphrased
and not numbered as in these guidelines; authors fill in the published checklists as well.
"""

from leukjax.compare.analysis import Study
from leukjax.compare.verdict import sample
from leukjax.report.external import sentence
from leukjax.report.tables import Cell, Table

ALL = "CLAIM, TRIPOD+AI, STARD-AI"
NONE = ""  # no section of the report, or nothing for the author to add


def checklist(study: Study, sections: set[str]) -> Table:
    """Returns what the runs fill, the section it is in, and what the author must add.

    Args:
      study: the comparison.
      sections: names of the sections of the report; a topic whose section is missing is not filled.
    """
    rows: list[list[Cell]] = [
        [
            topic,
            guidelines,
            "; ".join(_FILLED[name](study) for name in filled) or "nothing",
            ", ".join(filled) or "–",
            author or "–",
        ]
        for topic, guidelines, section, author in _TOPICS
        for filled in [[name for name in section.split() if name in sections]]
    ]
    header = ["topic", "guideline", "filled from the runs", "section", "only the author can state"]
    notes = ["The topics are paraphrased; the published checklists number and word them otherwise."]
    title = "Topics of CLAIM 2024, TRIPOD+AI and STARD-AI"
    return Table("checklist", title, header, rows, notes, left=(0, 1, 2, 3, 4))


_FILLED = {
    "flow": lambda s: f"{sample(s.test)} tested; numbers by part and class",
    "data": lambda s: f"data set {s.about.data}, split, checksums, duplicates, leakage",
    "models": lambda _: "architectures, parameters, shared and different settings",
    "training": lambda _: "loss and accuracy by epoch; chosen epochs and their criterion",
    "scores": lambda s: (
        f"scores with intervals by group; positive class {s.about.positive or 'none'}"
    ),
    "comparison": lambda _: "paired tests by group, Holm's adjustment, differences with intervals",
    "power": lambda _: "differences that this number of groups could detect",
    "calibration": lambda _: "reliability with intervals, temperature scaling",
    "subjects": lambda _: "accuracy on every subject",
    "subgroups": lambda s: "scores by " + ", ".join(_attributes(s)),
    "external": lambda s: " ".join(
        sentence(test) for tests in s.external.values() for test in tests
    ),
    "mistakes": lambda _: "the errors with the highest confidence",
    "robustness": lambda _: "scores under distortion",
    "reproduction": lambda _: "versions, hardware, seeds, checksums",
}


def _attributes(study: Study) -> list[str]:
    rows = [row for subgroups in study.subgroups.values() for row in subgroups.rows]
    return list(dict.fromkeys(row.attribute for row in rows))


# Topic, guidelines, sections of the report, what the report cannot know.
_TOPICS = (
    ("Title and abstract say that it is an AI study", ALL, NONE, "title, structured abstract"),
    ("Clinical background and intended use", ALL, NONE, "purpose, users, place in clinical care"),
    ("Study design, registration, protocol", ALL, NONE, "prospective or retrospective, where"
     " registered"),
    ("Ethics, consent, de-identification", ALL, NONE, "approvals, and how identity was removed"),
    ("Source of the data", ALL, "data", "setting, centres, dates, microscopes and stains"),
    ("Eligibility of patients and images", ALL, "flow", "criteria of inclusion and exclusion"),
    ("Participant flow", ALL, "flow", "patients lost before the images were taken"),
    ("Characteristics of participants by part", ALL, NONE, "age, sex, subtype, treatment"),
    ("Missing and unreadable data", ALL, "flow", "why they are missing"),
    ("Preparation of the images", ALL, "models", "what was done before the files were received"),
    ("Reference standard", ALL, NONE, "who labelled, by which test, agreement"),
    ("Definition of classes and positive class", ALL, "scores", "why this class is positive"),
    ("Partition of the data and its unit", ALL, "data", NONE),
    ("Independence of training and test", ALL, "data", NONE),
    ("Sample size", ALL, "power", "the difference that would matter, planned beforehand"),
    ("Model and its inputs and outputs", ALL, "models", NONE),
    ("Initial weights and their source", "CLAIM", "models", "licence of pre-trained weights"),
    ("Training: augmentation, optimiser, settings", ALL, "models", "how the settings were found"),
    ("Choice of the final model and threshold", ALL, "training", NONE),
    ("Measures of performance with uncertainty", ALL, "scores", "which measure matters, and why"),
    ("Comparison between models", ALL, "comparison", "whether it was planned beforehand"),
    ("Calibration", "CLAIM, TRIPOD+AI", "calibration", NONE),
    ("Robustness and sensitivity analyses", ALL, "robustness", NONE),
    ("Performance in subgroups and fairness", ALL, "subgroups subjects", "subgroups by age, sex,"
     " centre"),
    ("Analysis of failures", "CLAIM, STARD-AI", "mistakes", "assessment by experts"),
    ("Explanation of predictions", "CLAIM", NONE, "attribution maps (leukjax.explain)"),
    ("External validation: test on external data", ALL, "external", "data of another centre"),
    ("Software, hardware, reproducibility", ALL, "reproduction", "location of code and weights"),
    ("Patient and public involvement", "TRIPOD+AI", NONE, "who was consulted, and what changed"),
    ("Limits, bias, generalisability", ALL, NONE, "discussion"),
    ("Funding and conflicts of interest", ALL, NONE, "statement"),
)  # fmt: skip
