"""Runs ``python -m leukjax.compare``."""

from leukjax import command
from leukjax.compare import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
