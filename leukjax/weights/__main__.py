"""Runs ``python -m leukjax.weights``."""

from leukjax import command
from leukjax.weights import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
