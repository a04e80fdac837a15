"""Runs ``python -m leukjax.demo``."""

from leukjax import command
from leukjax.demo import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
