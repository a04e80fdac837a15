"""What a disk refused is found in whatever exception a library makes of it."""

import errno
import os

import pytest

from leukjax.disk import refusal


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: no space left"),
        (OSError(errno.EROFS, "Read-only file system", b"/a/b"), "/a/b: the file system is read"),
        (OSError(errno.EIO, "Input/output error"), "a file: the device reports"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing "x/0" in OCDBT database at local file "/r/": '
                "Failed writing: \"/r/d/1\": No space left on device [os_error_code='28']"
            ),
            "/r/d/1: no space left",
        ),
        (RuntimeError(f"Could not write: {os.strerror(errno.EDQUOT)}"), "a file: the disk quota"),
    ],
)
def test_refusals(error, says):
    assert refusal(error).startswith(says)
    assert "; " in refusal(error)  # the mend
    outer = RuntimeError("the worker failed")
    outer.__cause__ = error
    assert refusal(outer) == refusal(error)


@pytest.mark.parametrize(
    "error",
    [KeyError("bug"), FileNotFoundError(errno.ENOENT, "No such file", "x"), ValueError("shape")],
)
def test_anything_else_is_no_refusal(error):
    assert refusal(error) is None
