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

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)  # flags may stand behind the paths
command.define_run_flags(FLAGS, "workdir", "step", batch_size=16, threads=8)
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
flags.DEFINE_boolean("overlays", True, "draw them; maps and table are quicker", flag_values=FLAGS)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, explain, write the folder."""
    command.refuse_config(names, overrides)
    folders, options = command.run_folders(FLAGS), command.run_options(FLAGS)

    # Imported late: the flags above answer at once, JAX takes seconds.
    from leukjax.explain import explain_files

    explain_files.write(
        folders,
        arguments,
        Path(FLAGS.output),
        explain_files.Options(
            methods=tuple(FLAGS.method),
            target=FLAGS.target,
            layer=FLAGS.layer,
            kind=FLAGS.score,
            baseline=FLAGS.baseline,
            steps=FLAGS.steps,
            **options,
            overlays=FLAGS.overlays,
        ),
    )
