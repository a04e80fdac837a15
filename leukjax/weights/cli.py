"""List the published weights that the configs know by name.

python -m leukjax.weights list

Parameters are without the head; sizes are those of the files in float32. Weights whose source is a
web page are PyTorch's .pth: download them there, accept the terms where they are gated, and convert
them by launch/pth_to_safetensors.py (docs/weights.md). Any other file that fits a model is given by
--config.init.weights.
"""

from absl import flags

from leukjax import command
from leukjax.errors import UserError
from leukjax.weights.published import PUBLISHED

FLAGS = flags.FlagValues()
_COLUMNS = ("recipe", "model", "parameters", "size", "licence", "layout", "preprocessing", "source")


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Prints the table, and the commands."""
    command.refuse_config(names, overrides, reason="this command lists weights")
    if arguments != ["list"]:
        raise UserError(f"{' '.join(arguments) or 'no argument'}: give the one argument list")
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
    print("\nTo fine-tune on C-NMC 2019 (other data sets in place of cnmc: docs/data.md):")
    for entry in PUBLISHED:
        print(f"  {entry.command}")
