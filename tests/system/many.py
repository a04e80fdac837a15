"""Many commands in one process: JAX and TFDS are imported once, each case is a whole command line.

Run as a script it reads from stdin, as JSON, some code to run first and a list of argument lists,
and writes a JSON list of ``{"status", "out", "err"}`` to the file that is named first. A case that
raises has the status null and the traceback in "err", which is how Python would have ended.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from runs import REPOSITORY


def run_all(
    cases: list[list[str]], cache: Path, *, devices: int = 1, patch: str = ""
) -> list[dict]:
    """Run `python -m leukjax.main` with each list of arguments, one after the other.

    Args:
      cases: command lines, without the program.
      cache: folder for the records.
      devices: fake CPU devices.
      patch: Python code that is run before the first.
    """
    with tempfile.NamedTemporaryFile("r") as answers:
        subprocess.run(
            [sys.executable, __file__, answers.name],
            input=json.dumps([patch, cases]),
            env=os.environ
            | {
                "LEUKJAX_CACHE": str(cache),
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PYTHONPATH": str(REPOSITORY),
            },
            cwd=REPOSITORY,
            text=True,
            check=True,
            timeout=600,
            preexec_fn=obey_permissions,
        )
        return json.load(answers)


def obey_permissions() -> None:
    """Before the start of a process: root shall meet "permission denied" like anybody else."""
    if os.geteuid() == 0:
        drop = 24  # PR_CAPBSET_DROP, of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):
            assert libc.prctl(drop, capability, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())


def _run(argv: list[str]) -> dict:
    from leukjax import command, main

    caught = {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        files = {1: out, 2: err}
        # The descriptors, not sys.stderr: what C libraries print counts as well.
        kept = {number: os.dup(number) for number in files}
        for number, file in files.items():
            os.dup2(file.fileno(), number)
        try:
            status = command.status(main.main, main.FLAGS, argv, doc=None)
        except BaseException:
            status = None
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, file in files.items():
                os.dup2(kept[number], number)
                os.close(kept[number])
                file.seek(0)
                caught[number] = file.read().decode(errors="replace")
    return {"status": status, "out": caught[1], "err": caught[2]}


if __name__ == "__main__":
    code, given = json.load(sys.stdin)
    exec(code)
    results = [_run(argv) for argv in given]
    Path(sys.argv[1]).write_text(json.dumps(results))
