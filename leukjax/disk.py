"""What a disk refused, whichever library reports it and in whatever type of exception."""

import errno
import os
import re

_MENDS = {
    errno.ENOSPC: "no space left on the device; free some and start again",
    errno.EDQUOT: "the disk quota is used up; free some and start again",
    errno.EFBIG: "larger than the largest file allowed here (ulimit -f); raise it and start again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may use",
    errno.EPERM: "not permitted; choose a folder that you may use",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
    errno.EIO: "the device reports an error; look after the disk or its mount and start again",
    errno.ESTALE: "the network file system has lost this file; mount it again and start again",
    errno.ENOTCONN: "the network file system is not connected; mount it again and start again",
}


def refusal(error: BaseException) -> str | None:
    """``PATH: what is wrong; the mend`` if a disk is the cause of an error, else None.

    Looks at the error and at what it was raised from. TensorStore (under Orbax) gives ValueError
    and ArrayRecord RuntimeError, both with the system's text in theirs.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        code, path = _of_os_error(current) if isinstance(current, OSError) else _of_text(current)
        if code in _MENDS:
            return f"{path or 'a file'}: {_MENDS[code]}"
        current = current.__cause__ or current.__context__
    return None


def _of_os_error(error: OSError) -> tuple[int | None, str]:
    name = error.filename
    return error.errno, os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _of_text(error: BaseException) -> tuple[int | None, str]:
    text = str(error)
    stated = re.search(r"os_error_code='([0-9]+)'", text)
    code = int(stated[1]) if stated else None
    if code is None:
        code = next((code for code in _MENDS if os.strerror(code) in text), None)
    paths = re.findall(r'"(/[^"]*)"', text)
    return code, paths[-1] if paths else ""
