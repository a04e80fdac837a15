"""Serves a web page that classifies uploaded images: probability, range, heat map, model card.

python -m leukjax.demo --workdir=RUN[,RUN…]

Open the address that it prints. It listens on this machine only, unless --host is given, stores no
image, and sends nothing to other servers. Several runs are an ensemble. It needs
`pip install 'leukjax[apply]'`. docs/howto/demo.md describes the page. Not a medical device.
"""

import importlib.util

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
command.define_run_flags(
    FLAGS, "workdir", "step", "tta", "calibrated", "max_error", batch_size=8, threads=4
)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
flags.DEFINE_integer(
    "port", 8000, "port to listen on; 0: any free one", 0, 65535, flag_values=FLAGS
)
flags.DEFINE_integer("max_files", 16, "images in one upload", 1, 256, flag_values=FLAGS)
flags.DEFINE_integer("max_mib", 32, "size of one upload, MiB", 1, 1024, flag_values=FLAGS)
flags.DEFINE_float(
    "max_megapixels", 25, "pixels of one image, millions", 0.01, 50, flag_values=FLAGS
)
flags.DEFINE_integer("max_waiting", 256, "images that may wait in the queue", 1, flag_values=FLAGS)

NEEDED = ("starlette", "uvicorn", "python_multipart", "markdown_it")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, loads the runs, and serves the page until interrupted."""
    command.refuse_config(names, overrides)
    command.refuse_arguments(arguments, "drop images on the page")
    folders, options = command.run_folders(FLAGS), command.run_options(FLAGS)
    if FLAGS.max_waiting < FLAGS.max_files:
        raise UserError(
            f"--max_waiting={FLAGS.max_waiting}: one upload may have {FLAGS.max_files} images; "
            "set at least that number, or reduce --max_files"
        )
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{name.replace('_', '-')} is not installed; pip install 'leukjax[apply]'"
            )

    # Imported late: JAX takes seconds, and the errors above do not need it.
    from leukjax.demo import serve
    from leukjax.demo.options import Options

    serve.serve(
        folders,
        Options(
            host=FLAGS.host,
            port=FLAGS.port,
            **options,
            max_files=FLAGS.max_files,
            max_bytes=FLAGS.max_mib << 20,
            max_pixels=round(FLAGS.max_megapixels * 1e6),
            max_waiting=FLAGS.max_waiting,
        ),
    )
