"""Runs ``python -m leukjax.robustness``."""

from leukjax import command
from leukjax.robustness import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
