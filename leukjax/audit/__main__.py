"""Runs ``python -m leukjax.audit``."""

from leukjax import command
from leukjax.audit import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
