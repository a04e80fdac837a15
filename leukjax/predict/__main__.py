"""Runs ``python -m leukjax.predict``."""

from leukjax import command
from leukjax.predict import cli

if __name__ == "__main__":
    command.run(cli.main, cli.FLAGS, doc=cli.__doc__)
