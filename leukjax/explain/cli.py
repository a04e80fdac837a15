"""Shows which parts of an image the prediction of a trained run depends on.

python -m leukjax.explain --workdir=RUN[,RUN…] IMAGES… --output=FOLDER

IMAGES are files, folders and zips. FOLDER gets overlays/ (one PNG per image, the runs side by
side), maps/ (the raw maps, .npy) and explanations.csv (among others the share of attribution inside
the cell). Methods: gradcam, gradcam++ and hirescam for convolutional models (the first and the last
also for vit), rollout and attention for hybrid_vit and vit, integrated_gradients and occlusion for
all. docs/howto/explain.md compares them. Not a medical device.
"""

from pathlib import Path

from absl import flags

from leukjax import command

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)  # flags may follow the paths
command.define_run_flags(FLAGS, "workdir", "step", batch_size=16, threads=8)
flags.DEFINE_string("output", "explanations", "folder to write", flag_values=FLAGS)
flags.DEFINE_list(
    "method",
    [],
    "names, separated by commas; default gradcam (of a ViT: attention) and integrated_gradients",
    flag_values=FLAGS,
)
flags.DEFINE_string("target", "predicted", "class to explain, or predicted", flag_values=FLAGS)
flags.DEFINE_string(
    "layer",
    "",
    "layer of class activation maps; default: the deepest of at least 4 x 4",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "score",
    "log_odds",
    ["log_odds", "logit"],
    "explained score: the class against the others, or its logit alone",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "baseline",
    "mean",
    ["mean", "black", "blurred"],
    "baseline of integrated gradients and occlusion: the mean colour of the training cells, black, "
    "or the blurred cell",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "steps",
    64,
    "steps of integrated gradients; doubled up to 1024 until they converge",
    2,
    4096,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "overlays", True, "draw overlays, which takes longer than maps and table", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags and writes the explanations."""
    command.refuse_config(names, overrides)
    folders, options = command.run_folders(FLAGS), command.run_options(FLAGS)

    # Imported late: JAX takes seconds, and the errors above do not need it.
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
