"""Show where in an image trained runs find their answer.

python -m leukjax.explain --workdir=RUN[,RUN…] IMAGES… --output=FOLDER

IMAGES are files, folders and zips. FOLDER gets overlays/ (a PNG an image, the runs side by side),
maps/ (the raw maps, .npy) and explanations.csv (among others the share of attribution that lies
inside the cell). Methods: gradcam, gradcam++ and hirescam for convolutional models, rollout and
attention for the hybrid, integrated_gradients and occlusion for all. docs/explain.md says what
each is worth. Not a medical device.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)  # flags may stand behind the paths
flags.DEFINE_list("workdir", [], "work directory of a run, or several: RUN,RUN", flag_values=FLAGS)
flags.DEFINE_string("output", "explanations", "folder to write", flag_values=FLAGS)
flags.DEFINE_list(
    "method",
    [],
    "names with commas; default gradcam (attention for the hybrid) and integrated_gradients",
    flag_values=FLAGS,
)
flags.DEFINE_string("target", "predicted", "class to explain, or predicted", flag_values=FLAGS)
flags.DEFINE_string(
    "layer", "", "of class activation maps; default the deepest of 4 x 4 or more", flag_values=FLAGS
)
flags.DEFINE_enum(
    "score",
    "log_odds",
    ["log_odds", "logit"],
    "what is explained: the class against the others, or its logit alone",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "baseline",
    "mean",
    ["mean", "black", "blurred"],
    "of integrated gradients and occlusion: the training cells' mean colour, black, or the cell"
    " without its details",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "steps",
    64,
    "points of integrated gradients on the way; doubled up to 1024 where they are not enough",
    2,
    4096,
    flag_values=FLAGS,
)
flags.DEFINE_string("step", "best", "best, latest, or a number of steps", flag_values=FLAGS)
flags.DEFINE_boolean("overlays", True, "draw them; maps and table are quicker", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 16, "images on the devices at once", 1, 2**16, flag_values=FLAGS)
flags.DEFINE_integer("threads", 8, "that read images", 1, 256, flag_values=FLAGS)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, explain, write the folder."""
    if names or overrides:
        raise UserError("--config: not taken here; a run knows its own")
    runs = [name for name in FLAGS.workdir if name]
    if not runs:
        raise UserError("--workdir is missing; give the work directory of a trained run")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError("--workdir: a run is named twice")
    step = command.step_of(FLAGS.step)

    # Imported late: the flags above answer at once, JAX takes seconds.
    from leukjax.explain import explain_files

    explain_files.write(
        runs,
        arguments,
        Path(FLAGS.output),
        explain_files.Options(
            methods=tuple(FLAGS.method),
            target=FLAGS.target,
            layer=FLAGS.layer,
            kind=FLAGS.score,
            baseline=FLAGS.baseline,
            steps=FLAGS.steps,
            step=step,
            batch_size=FLAGS.batch_size,
            threads=FLAGS.threads,
            overlays=FLAGS.overlays,
        ),
    )
