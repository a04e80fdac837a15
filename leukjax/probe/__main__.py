"""Runs ``python -m leukjax.probe``."""

from leukjax import command
from leukjax.probe import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
