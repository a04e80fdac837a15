"""Runs ``python -m leukjax.export``."""

from leukjax import command
from leukjax.export import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
