"""Files of the Hugging Face hub: ``hf://OWNER/NAME[@REVISION][/FILE]``, kept in the cache.

The hub states the SHA-256 of a file of weights; what arrives must have it, and is compared again
whenever it is used. A file put into the cache by hand, offline, is taken as it is.
"""

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from leukjax.data import cache
from leukjax.errors import UserError
from leukjax.storage import open_atomic, read_text, write_atomic
from leukjax.weights.read import checksum

PREFIX = "hf://"
TIMEOUT = 30  # seconds without a byte
MAX_BYTES = 2**35  # of one file
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
        if sums.exists() and _kept_checksum(sums) != checksum(path):
            raise UserError(
                f"init.weights: {path} is damaged (checksum differs): remove it and start again"
            )
        return path
    cache.make_folder(path.parent)
    logging.info("init.weights: downloading %s", address.url)
    try:
        found = _download(address.url, path)
        write_atomic(sums, found + "\n")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"init.weights: cannot download {address.url} ({reason}); download it elsewhere "
            f"and put it at {path}"
        ) from error
    return path


def _kept_checksum(sums: Path) -> str:
    try:
        return read_text(sums, 2**10).strip()
    except (OSError, ValueError):
        return "unreadable"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _download(url: str, path: Path) -> str:
    """Streams to a temporary file beside the target, which takes its name when it is whole.

    Returns:
      The SHA-256 of what came, which is that stated.

    Raises:
      OSError, HTTPException, ValueError: it cannot be had, or is not what the hub states.
    """
    headers = _first_headers(url)
    # Not the ETag of what the redirection leads to: only the hub itself states the SHA-256.
    stated = _stated_checksum(headers)
    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        linked, came = _size(headers, "X-Linked-Size"), _size(answer.headers, "Content-Length")
        if linked is not None and came is not None and linked != came:
            raise OSError(f"two sizes are stated: {linked:,} and {came:,} bytes")
        size = came if linked is None else linked
        limit = MAX_BYTES if size is None else size
        if limit > MAX_BYTES:
            raise OSError(f"{limit:,} bytes are more than {MAX_BYTES:,}, the largest accepted")
        free = shutil.disk_usage(path.parent).free
        if (size or 0) > free:
            raise OSError(f"{limit / 1e6:,.0f} MB do not fit on the disk of {path.parent}")
        with open_atomic(path) as file:
            while block := answer.read(2**20):
                digest.update(block)
                count += len(block)
                if count > limit:
                    raise OSError(f"more than {limit:,} bytes came")
                file.write(block)
            if size is not None and count != size:
                raise OSError(f"{count:,} of {size:,} bytes came")
            if digest.hexdigest() != stated:
                raise OSError("what came has another checksum than the hub states")
    return stated


def _stated_checksum(headers: Message) -> str:
    """The SHA-256 that the hub states; in one form only, quoted or not."""
    text = headers.get("X-Linked-Etag")
    if text is None:
        raise ValueError("the hub states no SHA-256 of it, in a header X-Linked-Etag")
    found = re.fullmatch(r'("?)([0-9a-f]{64})\1', text.strip())
    if found is None:
        raise ValueError(f"the hub states {text[:80]!r} where the SHA-256 is expected")
    return found[2]


def _size(headers: Message, name: str) -> int | None:
    text = headers.get(name)
    if text is not None and not re.fullmatch("[0-9]{1,18}", text.strip()):
        raise ValueError(f"{name} is {text[:80]!r}, no size")
    return None if text is None else int(text)


def _first_headers(url: str) -> Message:
    """Headers of the hub's own answer, before it leads elsewhere.

    A redirection within the hub, from a repository's old name to its new one, is followed.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(5):
        try:
            with opener.open(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
                return answer.headers
        except urllib.error.HTTPError as error:
            if not 300 <= error.code < 400:
                raise
            target = urllib.parse.urljoin(url, error.headers.get("Location") or "")
            same_host = urllib.parse.urlsplit(target)[:2] == urllib.parse.urlsplit(url)[:2]
            if "X-Linked-Etag" in error.headers or not same_host:
                return error.headers
            url = target
    raise OSError("it leads in a circle")
