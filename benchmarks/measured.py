"""What the benchmarks of input and growth read off a process; the standard library alone."""

import os
import platform
from importlib import metadata
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Processor time of this process and of its living children, all threads."""
    own = os.getpid()
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            if int(folder.name) == own or int(fields[1]) == own:
                total += int(fields[11]) + int(fields[12])
    return total / _TICK


def memory() -> dict[str, int]:
    """Bytes of this process now: its own (`anonymous`), and of files that it maps (`files`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {
        "anonymous": int(fields["RssAnon"]) * 1024,
        "files": (int(fields["RssFile"]) + int(fields["RssShmem"])) * 1024,
    }


def versions(*names: str) -> str:
    """``jax 0.10.2 numpy 2.4.6``."""
    return " ".join(f"{name} {metadata.version(name)}" for name in names)


def processor() -> str:
    """The processor's name and number of cores."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name} ({os.cpu_count()} cores)"
