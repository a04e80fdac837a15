"""Fit classifiers to the features of a network that is not trained, on folds of whole subjects.

python -m leukjax.probe --config=configs/vit.py:cnmc,dinobloom_s --config.data.root=FOLDER
    --folds=5 --workdir=runs/probe
python -m leukjax.probe … --subjects=2,4,8,16,all       learning curves
python -m leukjax.probe … --level=subject --subject_labels=patients.csv

Features are computed once per image and kept in the cache folder. Heads: logistic, logistic_val,
knn1, knn20 and attentive; by subject gated_attention, mean and max. --weights is a file, a run or
hf://OWNER/NAME, by default the config's init.weights; where that is empty, the features are those
of random weights, a baseline. The same command again resumes. leukjax.compare takes the work
directory beside trained models; docs/howto/probe.md describes its files.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "", "folder of the probes", flag_values=FLAGS)
flags.DEFINE_string("weights", "", "in place of --config.init.weights", flag_values=FLAGS)
flags.DEFINE_integer(
    "folds", 5, "folds of groups; one tests, the next validates", lower_bound=3, flag_values=FLAGS
)
flags.DEFINE_bool(
    "pool", False, "fold the held-out split as well; nothing is held out", flag_values=FLAGS
)
flags.DEFINE_list("heads", [], "names, separated by commas; default: all", flag_values=FLAGS)
flags.DEFINE_list(
    "subjects", [], "numbers of training subjects, and all: learning curves", flag_values=FLAGS
)
flags.DEFINE_enum("level", "image", ["image", "subject"], "what is classified", flag_values=FLAGS)
flags.DEFINE_string(
    "subject_labels", "", "CSV with the columns subject and label: the classes", flag_values=FLAGS
)
flags.DEFINE_string("output", "", "features.npz to write", flag_values=FLAGS)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, computes features, fits the heads, writes the report."""
    command.refuse_arguments(arguments)
    if not names:
        raise UserError(
            "--config is missing; for instance --config=configs/vit.py:cnmc,dinobloom_s"
        )
    if not FLAGS.workdir:
        raise UserError("--workdir is missing; name the folder of the probes")
    if FLAGS.output and not FLAGS.output.endswith(".npz"):
        raise UserError(f"--output={FLAGS.output}: must end in .npz")
    if FLAGS.weights:
        if "init.weights" in dict(overrides):
            raise UserError("--weights: sets --config.init.weights; leave out one of them")
        overrides = [*overrides, ("init.weights", FLAGS.weights)]

    # Imported late: JAX and TFDS take seconds, and the errors above need neither.
    from leukjax.probe import fit_probe

    fit_probe.run(
        names[0],
        overrides,
        Path(FLAGS.workdir),
        fit_probe.Options(
            folds=FLAGS.folds,
            pool=FLAGS.pool,
            heads=tuple(FLAGS.heads),
            subjects=tuple(FLAGS.subjects),
            level=FLAGS.level,
            subject_labels=FLAGS.subject_labels,
            output=FLAGS.output,
        ),
    )
