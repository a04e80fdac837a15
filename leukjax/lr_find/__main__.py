"""Runs ``python -m leukjax.lr_find``."""

from leukjax import command
from leukjax.lr_find import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
