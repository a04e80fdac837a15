"""Processes with unusual environment, standard streams, permissions or working directory."""

import os
import sys

import broken_names
import broken_runs
import numpy as np
from broken_case import Case, Surroundings, write_folder

_PLACES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LEUKJAX_CACHE",
           "JAX_COMPILATION_CACHE_DIR", "MPLCONFIGDIR")  # fmt: skip

_NO_ENTRY = """
import pwd
def no_entry(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = no_entry
"""

# Root gets "permission denied" like other users: PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH.
_OBEY = """
import ctypes
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
"""

_VARIABLES = {
    "JAX_PLATFORMS=cuda": {"JAX_PLATFORMS": "cuda"},
    "JAX_PLATFORMS=nonsense": {"JAX_PLATFORMS": "nonsense"},
    "JAX_PLATFORMS=,": {"JAX_PLATFORMS": ","},
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0",
              "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "no such locale": {"LC_ALL": "xx_YY.nonsense", "PYTHONUTF8": "0"},
    "JAX_ENABLE_X64": {"JAX_ENABLE_X64": "1"},
    "another PRNG": {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
    "MPLBACKEND=TkAgg": {"MPLBACKEND": "TkAgg"},
    "narrow": {"COLUMNS": "1", "LINES": "1", "TERM": "dumb"},
    "columns are no number": {"COLUMNS": "many"},
    "no such TMPDIR": {"TMPDIR": "/nonexistent"},
}  # fmt: skip


def environment(case: Case, random: np.random.Generator) -> None:
    """Sets one or two unusual properties around a command with good input or unusual names."""
    odd = Surroundings()
    case.surroundings = odd
    for _ in range(random.integers(1, 3)):
        how = random.random()
        if how < 0.3:
            _without_home(case, odd, random)
        elif how < 0.65:
            name = str(random.choice(list(_VARIABLES)))
            odd.names.append(name)
            odd.variables |= _VARIABLES[name]
        elif how < 0.85:
            stream = int(random.choice((0, 1, 1, 2, 2)))
            kind = "closed" if stream == 0 else str(random.choice(("closed", "full", "gone")))
            odd.names.append(f"{('stdin', 'stdout', 'stderr')[stream]} {kind}")
            odd.streams[stream] = kind
        elif how < 0.93:
            odd.names.append("umask 077")
            odd.before.append("os.umask(0o077)")
        else:
            _without_place(case, odd, random)
    case.changes += odd.names
    _command(case, random)


def _command(case: Case, random: np.random.Generator) -> None:
    commands = ("predict", "explain", "main", "evaluate", "robustness", "compare", "audit")
    command = str(random.choice(commands, p=(0.3, 0.12, 0.2, 0.12, 0.1, 0.08, 0.08)))
    if command == "main":
        write_folder(case, random)
        return
    if command == "audit":
        write_folder(case, random)
        case.command = "audit"
        case.arguments = [str(case.fields["data.root"]), f"--output={case.folder / 'out'}"]
        return
    broken_runs.copy_run(case)
    broken_runs.choose(case, command, random)
    assert case.arguments is not None
    if command == "predict":
        plain = {"--output", "--workdir"}
        case.arguments = [a for a in case.arguments if a.split("=")[0] in plain or a[0] != "-"]
        case.expected = broken_runs.template() / "answers.csv"
    if command in ("evaluate", "robustness"):
        data = f"--config.data.root={broken_runs.template() / 'data'}"
        case.arguments = [*[a for a in case.arguments if a != data], data]
    if command == "explain" and random.random() < 0.5:
        good = next((case.folder / "inputs").iterdir())
        target = good.with_name(f"{broken_names.odd_name(random)[:60]}.png")
        if not target.exists():
            good.rename(target)


def _without_home(case: Case, odd: Surroundings, random: np.random.Generator) -> None:
    """Removes the folder for a cache, or makes it unwritable."""
    odd.variables |= dict.fromkeys(_PLACES)
    # Root can write to / but not to /proc.
    top = "/" if os.geteuid() else "/proc"
    how = int(random.integers(4))
    odd.names.append(("no HOME", f"HOME={top}", "read-only HOME", "HOME is a file")[how])
    if how == 0:
        # A user without a passwd entry, as in containers: the system knows no home either.
        site = case.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_NO_ENTRY)
        odd.variables["PYTHONPATH"] = f"{site}{os.pathsep}{broken_runs.REPOSITORY}"
    elif how == 1:
        odd.variables["HOME"] = top
    elif how == 2:
        home = case.folder / "home"
        home.mkdir(mode=0o555, exist_ok=True)
        odd.variables["HOME"] = str(home)
        odd.before.append(_OBEY)
    else:
        odd.variables["HOME"] = "/dev/null"


def _without_place(case: Case, odd: Surroundings, random: np.random.Generator) -> None:
    """Removes the working directory, or makes it unwritable."""
    cwd = case.folder / "cwd"
    cwd.mkdir(exist_ok=True)
    odd.cwd = cwd
    if random.random() < 0.5:
        odd.names.append("working directory removed")
        odd.before.append(f"os.rmdir({str(cwd)!r})")
    else:
        odd.names.append("read-only working directory")
        cwd.chmod(0o555)
        odd.before.append(_OBEY)


def open_streams(streams: dict[int, str], out: int, err: int) -> dict[int, int]:
    """Returns descriptors of a process's standard streams, without "closed" ones."""
    descriptors = {0: os.open("/dev/null", os.O_RDONLY), 1: os.dup(out), 2: os.dup(err)}
    for number, kind in streams.items():
        os.close(descriptors.pop(number))
        if kind == "full":
            descriptors[number] = os.open("/dev/full", os.O_WRONLY)
        elif kind == "gone":
            read, descriptors[number] = os.pipe()
            os.close(read)
    return descriptors


def launcher(odd: Surroundings, command: str, argv: list[str]) -> list[str]:
    """Returns the command line of a process that becomes ``python -m leukjax.COMMAND``."""
    closed = [f"os.close({number})" for number, kind in odd.streams.items() if kind == "closed"]
    then = [sys.executable, "-m", f"leukjax.{command}", *argv]
    lines = ["import os, sys", *odd.before, *closed, f"os.execv({sys.executable!r}, {then!r})"]
    return [sys.executable, "-S", "-c", "\n".join(lines)]
