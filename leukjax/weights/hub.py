"""Files of the Hugging Face hub: ``hf://OWNER/NAME[@REVISION][/FILE]``, kept in the cache.

The hub says the SHA-256 of a large file; what arrives must have it, and is looked at again whenever
it is used. A file put into the cache by hand, offline, is taken as it is.
"""

import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from leukjax.data import cache
from leukjax.errors import UserError
from leukjax.storage import write_atomic
from leukjax.weights.read import checksum

PREFIX = "hf://"
TIMEOUT = 30  # seconds without a byte
_WORD = r"[A-Za-z0-9_.-]+"
_FORM = re.compile(rf"hf://({_WORD})/({_WORD})(?:@({_WORD}))?(?:/({_WORD}(?:/{_WORD})*))?")


class Address(NamedTuple):
    """A file of the hub."""

    owner: str
    name: str
    revision: str
    file: str

    @property
    def url(self) -> str:
        """Where it lies; $HF_ENDPOINT, as in Hugging Face's own programs, names another host."""
        host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{host.rstrip('/')}/{self.owner}/{self.name}/resolve/{self.revision}/{self.file}"


def parse(text: str) -> Address:
    """The parts of ``hf://OWNER/NAME[@REVISION][/FILE]``.

    Raises:
      UserError: it does not read so.
    """
    found = _FORM.fullmatch(text)
    if not found or {".", ".."} & set(re.split("[/@]", text)):
        raise UserError(
            f"--config.init.weights={text}: must read hf://OWNER/NAME, hf://OWNER/NAME@REVISION or "
            "hf://OWNER/NAME/FILE"
        )
    return Address(found[1], found[2], found[3] or "main", found[4] or "model.safetensors")


def place(text: str, cache_dir: str) -> Path:
    """Where the file of ``hf://…`` is kept, or will be; `cache_dir` is ``data.cache_dir``."""
    address = parse(text)
    folder = cache.root(cache_dir) / "weights" / address.owner / address.name / address.revision
    return folder / address.file


def fetch(text: str, cache_dir: str) -> Path:
    """The file in the cache, downloaded if it is not there yet.

    Args:
      text: ``hf://…``.
      cache_dir: ``data.cache_dir``.

    Raises:
      UserError: no such file, no connection, or a damaged one; says what to put where.
    """
    address, path = parse(text), place(text, cache_dir)
    sums = path.with_name(f"{path.name}.sha256")
    if path.exists():
        if sums.exists() and sums.read_text().strip() != checksum(path):
            raise UserError(
                f"init.weights: {path} is damaged (checksum differs): remove it and start again"
            )
        return path
    logging.info("init.weights: downloading %s", address.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _download(address.url, path)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"init.weights: cannot download {address.url} ({reason}); download it elsewhere "
            f"and put it at {path}"
        ) from error
    write_atomic(sums, found + "\n")
    return path


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _download(url: str, path: Path) -> str:
    """Stream to a temporary file beside the target, which takes its name when it is whole."""
    headers = _first_headers(url)
    # Not the ETag of what the redirection leads to: only the hub itself says the SHA-256.
    stated = (headers.get("X-Linked-Etag") or "").strip('"')
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        if size > shutil.disk_usage(path.parent).free:
            raise OSError(f"{size / 1e6:,.0f} MB do not fit on the disk of {path.parent}")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                while block := answer.read(2**20):
                    digest.update(block)
                    file.write(block)
                if size and file.tell() != size:
                    raise OSError(f"{file.tell():,} of {size:,} bytes came")
                file.flush()
                os.fsync(file.fileno())
            if re.fullmatch("[0-9a-f]{64}", stated) and stated != digest.hexdigest():
                raise OSError("what came has another checksum than the hub states")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return digest.hexdigest()


def _first_headers(url: str) -> Message:
    """Of the hub's own answer, before it leads elsewhere."""
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
            return answer.headers
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            return error.headers
        raise
