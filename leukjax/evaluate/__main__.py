"""Runs ``python -m leukjax.evaluate``."""

from leukjax import command
from leukjax.evaluate import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
