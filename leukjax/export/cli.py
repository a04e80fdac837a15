"""Export a trained run as safetensors, StableHLO or ONNX.

python -m leukjax.export --workdir=RUN --format=safetensors --output=FOLDER

safetensors: FOLDER/model.safetensors in timm's layout (best epoch; the moving averages if the run
    has them), and FOLDER/preprocessing.json, which describes the input.
    In PyTorch: timm.create_model(NAME, num_classes=2, checkpoint_path="FOLDER/model.safetensors")
stablehlo: FOLDER/model.stablehlo, model.json and predict.py: from uint8 images to probabilities,
    for CPU, CUDA and TPU. `python FOLDER/predict.py IMAGE…` needs jax, flatbuffers and Pillow.
    --calibrated scales its probabilities to fit validation.
onnx: FOLDER/model.onnx, the same as ONNX (float32); predict.py needs onnxruntime and Pillow.
    `pip install 'leukjax[onnx]'` needs an environment of its own; docs/export.md explains why.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "", "folder of the finished run", flag_values=FLAGS)
flags.DEFINE_string("format", "safetensors", "safetensors, stablehlo or onnx", flag_values=FLAGS)
flags.DEFINE_string("output", "", "folder to write", flag_values=FLAGS)
command.define_run_flags(FLAGS, "calibrated")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, writes the files."""
    command.refuse_config(names, overrides)
    command.refuse_arguments(arguments)
    for flag in ("workdir", "output"):
        if not getattr(FLAGS, flag):
            raise UserError(f"--{flag} is missing; see --help")
    if FLAGS.format not in FORMATS:
        raise UserError(f"--format={FLAGS.format}: unknown; one of {', '.join(FORMATS)}")
    if FLAGS.calibrated and FLAGS.format == "safetensors":
        raise UserError(f"--calibrated: {FLAGS.format} contains weights and no probabilities")
    FORMATS[FLAGS.format](Path(FLAGS.workdir), Path(FLAGS.output))


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turns a failure to write into an error about --output."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror})") from error


def safetensors(workdir: Path, output: Path) -> None:
    """Writes ``model.safetensors`` and ``preprocessing.json``.

    Raises:
      UserError: no finished run, a family that timm does not have, or the folder cannot be written.
    """
    # Imported late: JAX takes seconds, and the errors above do not need it.
    import numpy as np
    from flax import traverse_util

    from leukjax.predict.restore import restore
    from leukjax.storage import write_atomic
    from leukjax.weights import write

    run = restore(workdir, "best")
    variables = traverse_util.flatten_dict(run.variables)
    tensors = write.timm_tensors(
        run.preprocessing["model"]["name"],
        {path: np.asarray(value) for path, value in variables.items()},
        run.step,
    )
    description = json.dumps(run.preprocessing, indent=1) + "\n"
    with _writing(output):
        write_atomic(output / "preprocessing.json", description)
        write_atomic(output / "model.safetensors", write.safetensors(tensors, description))
    print(f"{output / 'model.safetensors'}: {len(tensors)} tensors of step {run.step}")


def stablehlo(workdir: Path, output: Path) -> None:
    """Writes ``model.stablehlo``, ``model.json`` and the loader ``predict.py``.

    Raises:
      UserError: no finished run, or the folder cannot be written.
    """
    from leukjax import runtime
    from leukjax.export import stablehlo as program
    from leukjax.predict import predictor as models

    runtime.set_numerics()
    model = models.load(workdir, calibrated=FLAGS.calibrated)
    assert isinstance(model, models.Model)  # an ensemble is a list of runs
    with _writing(output):
        program.write(model, output)
    _print_summary(output / program.PROGRAM, model.step, f"for {', '.join(program.PLATFORMS)}")


def onnx(workdir: Path, output: Path) -> None:
    """Writes ``model.onnx``, ``model.json`` and the loader ``predict.py``.

    Raises:
      UserError: no finished run, the extra is not installed, a network that is not converted, or
        the folder cannot be written.
    """
    from leukjax.export import onnx as program

    program.check_installed()
    from leukjax import runtime
    from leukjax.predict import predictor as models

    runtime.set_numerics()
    model = models.load(workdir, calibrated=FLAGS.calibrated)
    assert isinstance(model, models.Model)
    with _writing(output):
        program.write(model, output)
    _print_summary(output / program.PROGRAM, model.step, "checked with onnxruntime")


def _print_summary(file: Path, step: int, what: str) -> None:
    size = file.stat().st_size / 2**20
    loader = file.with_name("predict.py")
    print(f"{file}: step {step}, {size:.1f} MiB, {what}; python {loader} IMAGE… applies it")


# Format -> function of work directory and output folder.
FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "safetensors": safetensors,
    "stablehlo": stablehlo,
    "onnx": onnx,
}
