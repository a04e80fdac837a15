"""Runs ``python -m leukjax.preview``."""

from leukjax import command
from leukjax.preview import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
