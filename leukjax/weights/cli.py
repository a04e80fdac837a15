"""List the published weights that the configs know by name, or make a file known by its checksum.

python -m leukjax.weights list
python -m leukjax.weights add FILE              the base of a LoRA run from another machine

Parameters are without the head; sizes are those of the files in float32. Weights whose source is a
web page are PyTorch's .pth: download them there, accept the terms where they are gated, and convert
them by launch/pth_to_safetensors.py. Any other file that fits a model is given by
--config.init.weights. docs/howto/weights.md describes both.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError
from leukjax.weights.published import PUBLISHED

FLAGS = flags.FlagValues()
_COLUMNS = ("recipe", "model", "parameters", "size", "licence", "layout", "preprocessing", "source")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Lists, or adds a file."""
    command.refuse_config(names, overrides, reason="this command reads no data")
    match arguments:
        case ["list"]:
            print_table()
        case ["add", file]:
            # Imported late: JAX takes seconds.
            from leukjax.weights import base, read

            sha256 = read.checksum(Path(file))
            base.remember(Path(file), sha256)
            print(f"{file}: sha256 {sha256}")
        case _:
            raise UserError(f"{' '.join(arguments) or 'no argument'}: give list, or add FILE")


def print_table() -> None:
    """Prints the table, and the commands."""
    rows = [_COLUMNS] + [
        (
            f"{entry.config}:{entry.recipe}",
            entry.model,
            f"{entry.parameters:,.1f} M",
            f"{entry.megabytes:,} MB",
            entry.licence,
            entry.layout,
            entry.preprocessing,
            entry.source,
        )
        for entry in PUBLISHED
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print("\nTo fine-tune on C-NMC 2019 (other data sets: docs/reference/data.md):")
    for entry in PUBLISHED:
        print(f"  {entry.command}")
