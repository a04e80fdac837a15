"""Observes a case of fuzz.py: memory, files written, imports, changes."""

import hashlib
import os
import stat
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MEMORY = 2 * 10**9  # bytes that a process may use

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2,
            "os.link": 2, "os.truncate": 1, "os.chmod": 1, "os.chown": 1}  # fmt: skip
_STREAMS = ("/dev/null", "/dev/tty", "/dev/shm", "/proc/self")


def peak(process: int | str = "self") -> int:
    """Returns the peak resident bytes of a process since `forget_peak`; 0 if it ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else 0


def held() -> int:
    """Returns the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Resets `peak` for this process."""
    Path("/proc/self/clear_refs").write_text("5")


def family(process: int) -> list[int]:
    """Returns a process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except (OSError, IndexError):
                continue
            children.setdefault(int(parent), []).append(int(entry.name))
    members = [process]
    for member in members:
        members += children.get(member, [])
    return members


def over_memory(process: int) -> int:
    """Returns the largest peak above `MEMORY` of a process and its descendants; 0 if none."""
    return max((size for member in family(process) if (size := peak(member)) > MEMORY), default=0)


class Recorder:
    """Records writes and imports of this process, by an audit hook that cannot be removed.

    Attributes:
      active: whether anything is recorded.
      written: paths, links resolved.
      opened: paths as they were given.
      problems: actions that no case may take.
    """

    def __init__(self) -> None:
        self.active = False
        self.written: set[str] = set()
        self.opened: set[str] = set()
        self.problems: list[str] = []
        sys.addaudithook(self._record)

    def start(self) -> None:
        """Clears the records and starts recording."""
        self.written, self.opened, self.problems = set(), set(), []
        self.active = True

    def _record(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes):
                self.opened.add(os.fsdecode(path))
                if isinstance(flags, int) and flags & _WRITES:
                    self._write(path)
        elif event in _CHANGES:
            folder = next((a for a in arguments[1:] if isinstance(a, int) and a >= 0), None)
            for path in arguments[: _CHANGES[event]]:
                if event != "os.symlink" or path is arguments[1]:
                    self._write(path, folder if event in ("os.remove", "os.rmdir") else None)
        elif event == "import" and str(arguments[0]).startswith("fuzz_canary"):
            self.problems.append("imported a module that a file names")
        elif event in ("os.system", "os.exec", "socket.getaddrinfo"):
            self.problems.append(f"{event}: {arguments[0]!r}")

    def _write(self, path: object, folder: int | None = None) -> None:
        if not isinstance(path, str | bytes):
            return
        text = os.fsdecode(path)
        if folder is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        parent, name = os.path.split(os.path.abspath(text))
        self.written.add(os.path.join(os.path.realpath(parent), name))


def written_elsewhere(recorder: Recorder, allowed: Iterable[Path], refused: Path) -> str:
    """Returns the first path that was written without permission, or ""."""
    folders = [str(folder.resolve()) for folder in allowed]
    for path in sorted(recorder.written):
        inside = any(path == folder or path.startswith(folder + os.sep) for folder in folders)
        if not inside and not path.startswith(_STREAMS):
            return f"wrote {path}"
    for path in sorted(recorder.opened):
        if path.startswith(str(refused) + os.sep):
            return f"opened {path}"
    return ""


def snapshot(folder: Path) -> dict[str, str]:
    """Returns name -> kind, size and checksum (files below 32 MiB) of a folder's content."""
    content = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        about = path.lstat()
        text = f"{stat.filemode(about.st_mode)} {about.st_size if path.is_file() else 0}"
        if path.is_symlink():
            text += f" -> {path.readlink()}"
        elif path.is_file() and about.st_size < 2**25:
            text += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
        content[str(path.relative_to(folder))] = text
    return content


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Returns the names that were added, removed or changed."""
    return sorted(name for name in before | after if before.get(name) != after.get(name))


def raw_control(text: str) -> str:
    """Returns the first character of a text that controls a terminal, or ""."""
    for letter in text:
        if letter not in "\n\t" and (
            unicodedata.category(letter) in ("Cc", "Cs") or letter in "\u202a\u202b\u202d\u202e"
        ):
            return repr(letter)
    return ""
