"""Write a trained run in a format for other programs.

python -m leukjax.export --workdir=RUN --format=safetensors --output=FOLDER

safetensors: FOLDER/model.safetensors in timm's layout (of the best epoch; the moving averages
    where the run keeps them), and FOLDER/preprocessing.json, which describes its input.
    In PyTorch: timm.create_model(NAME, num_classes=2, checkpoint_path="FOLDER/model.safetensors")
stablehlo: FOLDER/model.stablehlo, model.json and predict.py: uint8 images in, probabilities out,
    for CPU, CUDA and TPU. `python FOLDER/predict.py IMAGE…` needs jax, flatbuffers and Pillow.
onnx: FOLDER/model.onnx, the same as ONNX (float32); predict.py needs onnxruntime and Pillow. Needs
    `pip install 'leukjax[onnx]'` in an environment of its own; docs/howto/export.md explains why.
hub: a folder for the Hugging Face hub: stablehlo, safetensors where timm has the network, and
    README.md, the run's model card with the hub's metadata. Nothing is sent.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError
from leukjax.storage import write_atomic

FORMATS = ("safetensors", "stablehlo", "onnx", "hub")
FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "", "folder of the finished run", flag_values=FLAGS)
flags.DEFINE_string("format", "safetensors", f"one of {', '.join(FORMATS)}", flag_values=FLAGS)
flags.DEFINE_string("output", "", "folder to write", flag_values=FLAGS)
command.define_run_flags(FLAGS, "calibrated")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags and writes the files."""
    command.refuse_config(names, overrides)
    command.refuse_arguments(arguments)
    for flag in ("workdir", "output"):
        if not getattr(FLAGS, flag):
            raise UserError(f"--{flag} is missing; see --help")
    if FLAGS.format not in FORMATS:
        raise UserError(f"--format={FLAGS.format}: unknown; one of {', '.join(FORMATS)}")
    if FLAGS.calibrated and FLAGS.format in ("safetensors", "hub"):
        raise UserError(f"--calibrated: {FLAGS.format} has weights without a temperature")
    workdir, output = Path(FLAGS.workdir), Path(FLAGS.output)
    if FLAGS.format == "safetensors":
        write_safetensors(workdir, output)
    elif FLAGS.format == "hub":
        write_hub(workdir, output)
    else:
        write_function(workdir, output, FLAGS.format, calibrated=FLAGS.calibrated)


def write_safetensors(workdir: Path, output: Path) -> None:
    """Writes ``model.safetensors`` and ``preprocessing.json``.

    Raises:
      UserError: no finished run, a family that timm does not have, or the folder cannot be written.
    """
    # Imported late: the flags are checked at once, JAX takes seconds.
    import numpy as np
    from flax import traverse_util

    from leukjax.predict.member import restore
    from leukjax.weights import layouts

    member = restore(workdir)
    variables = traverse_util.flatten_dict(member.variables)
    tensors = layouts.timm_tensors(
        member.preprocessing["model"]["name"],
        {path: np.asarray(value) for path, value in variables.items()},
        member.step,
    )
    description = json.dumps(member.preprocessing, indent=1) + "\n"
    with _writing(output):
        write_atomic(output / "preprocessing.json", description)
        write_atomic(output / "model.safetensors", layouts.safetensors(tensors, description))
    print(f"{output / 'model.safetensors'}: {len(tensors)} tensors of step {member.step}")


def write_hub(workdir: Path, output: Path) -> None:
    """Writes the files of ``stablehlo``, those of ``safetensors`` if they exist, and ``README.md``.

    Raises:
      UserError: no finished run, or the folder cannot be written.
    """
    from leukjax.export import hub
    from leukjax.rundir import RunDir
    from leukjax.weights import layouts

    run_dir = RunDir(workdir)
    has_weights = run_dir.preprocessing()["model"]["name"] in layouts.TIMM
    card = hub.card(run_dir, has_weights=has_weights)  # first: it checks the run
    if has_weights:
        write_safetensors(workdir, output)
    write_function(workdir, output, "stablehlo", calibrated=False)
    with _writing(output):
        write_atomic(output / hub.CARD, card)
    print(f"{output / hub.CARD}: state a licence, then upload the folder; nothing was sent")


def write_function(workdir: Path, output: Path, name: str, *, calibrated: bool) -> None:
    """Writes ``model.stablehlo`` or ``model.onnx``, ``model.json`` and the loader ``predict.py``.

    Raises:
      UserError: no finished run; for ONNX: the extra is not installed or the network cannot be
        converted; or the folder cannot be written.
    """
    from leukjax.export import onnx, stablehlo

    if name == "onnx":
        onnx.check_installed()
    from leukjax import runtime
    from leukjax.predict.predictor import load

    runtime.set_numerics()
    predictor = load(workdir, calibrated=calibrated)
    with _writing(output):
        if name == "onnx":
            onnx.write(predictor, output)
            file, note = output / onnx.PROGRAM, "checked with onnxruntime"
        else:
            stablehlo.write(predictor, output)
            file, note = output / stablehlo.PROGRAM, f"for {', '.join(stablehlo.PLATFORMS)}"
    size, loader = file.stat().st_size / 2**20, output / stablehlo.LOADER
    print(
        f"{file}: step {predictor.member.step}, {size:.1f} MiB, {note}; python {loader} IMAGE… "
        "applies it"
    )


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turns an OSError into an error of --output."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror})") from error
