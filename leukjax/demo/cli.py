"""A page in the browser that answers about dropped images: probability, spread, heat map, card.

python -m leukjax.demo --workdir=RUN[,RUN…]

Open the address that it prints. It listens on this machine alone unless --host says otherwise,
keeps no image, and sends nothing anywhere. Several runs answer as an ensemble. It needs
`pip install 'leukjax[apply]'`. docs/demo.md says what the page shows. Not a medical device.
"""

import importlib.util
from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_list("workdir", [], "work directory of a run, or several: RUN,RUN", flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
flags.DEFINE_integer(
    "port", 8000, "to listen on; 0 = any that is free", 0, 65535, flag_values=FLAGS
)
flags.DEFINE_string("step", "best", "best, latest, or a number of steps", flag_values=FLAGS)
flags.DEFINE_bool("tta", False, "mean over eight turned and mirrored views", flag_values=FLAGS)
flags.DEFINE_bool(
    "calibrated", False, "probabilities at the temperature that fits validation", flag_values=FLAGS
)
flags.DEFINE_float(
    "max_error",
    None,
    "abstain from a confidence on that keeps the share of wrong answers below this",
    flag_values=FLAGS,
)
flags.DEFINE_integer("max_files", 16, "images in one upload", 1, 256, flag_values=FLAGS)
flags.DEFINE_integer("max_mib", 32, "size of one upload, MiB", 1, 1024, flag_values=FLAGS)
flags.DEFINE_float(
    "max_megapixels", 25, "pixels of one image, millions", 0.01, 50, flag_values=FLAGS
)
flags.DEFINE_integer("max_waiting", 256, "images that may wait for an answer", 1, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 8, "images on the devices at once", 1, 2**16, flag_values=FLAGS)
flags.DEFINE_integer("threads", 4, "that read and prepare images", 1, 256, flag_values=FLAGS)

NEEDED = ("starlette", "uvicorn", "python_multipart", "markdown_it")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, load the runs, serve the page until it is interrupted."""
    if names or overrides:
        raise UserError("--config: not taken here; a run knows its own")
    if arguments:
        raise UserError(f"{arguments[0]}: not understood; drop images on the page")
    runs = [name for name in FLAGS.workdir if name]
    if not runs:
        raise UserError("--workdir is missing; give the work directory of a trained run")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError("--workdir: a run is named twice; name each once")
    if FLAGS.max_error is not None and not 0 < FLAGS.max_error < 1:
        raise UserError(f"--max_error={FLAGS.max_error:g}: a share; give more than 0, less than 1")
    if FLAGS.max_waiting < FLAGS.max_files:
        raise UserError(
            f"--max_waiting={FLAGS.max_waiting}: one upload may hold {FLAGS.max_files} images; "
            "give at least as many, or lower --max_files"
        )
    step = command.step_of(FLAGS.step)
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{name.replace('_', '-')} is not installed; pip install 'leukjax[apply]'"
            )

    # Imported late: the flags above answer at once, JAX takes seconds.
    from leukjax.demo import serve
    from leukjax.demo.options import Options

    serve.serve(
        runs,
        Options(
            host=FLAGS.host,
            port=FLAGS.port,
            step=step,
            tta=FLAGS.tta,
            calibrated=FLAGS.calibrated,
            max_error=FLAGS.max_error,
            max_files=FLAGS.max_files,
            max_bytes=FLAGS.max_mib << 20,
            max_pixels=round(FLAGS.max_megapixels * 1e6),
            max_waiting=FLAGS.max_waiting,
            batch_size=FLAGS.batch_size,
            threads=FLAGS.threads,
        ),
    )
