"""Runs ``python -m leukjax.crossval``."""

from leukjax import command
from leukjax.crossval import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
