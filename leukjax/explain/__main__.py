"""Runs ``python -m leukjax.explain``."""

from leukjax import command
from leukjax.explain import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
