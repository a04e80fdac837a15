"""Downloads files of the Hugging Face hub, ``hf://OWNER/NAME[@REVISION][/FILE]``, into the cache.

The hub states the SHA-256 of a file of weights. It is compared after the download and at every
use. A file that a user put into the cache by hand has no checksum and is used as it is. A token in
$HF_TOKEN is sent to the hub's own host only, never to the one that it redirects to.
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
    def page(self) -> str:
        """Address of the model's page; $HF_ENDPOINT names a mirror, as in Hugging Face's code."""
        host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{host.rstrip('/')}/{self.owner}/{self.name}"

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"{self.page}/resolve/{self.revision}/{self.file}"


def parse(text: str) -> Address:
    """Returns the parts of ``hf://OWNER/NAME[@REVISION][/FILE]``.

    Raises:
      UserError: the text has another form.
    """
    match = _FORM.fullmatch(text)
    if not match or {".", ".."} & set(re.split("[/@]", text)):
        raise UserError(
            f"--config.init.weights={text}: must read hf://OWNER/NAME, hf://OWNER/NAME@REVISION or "
            "hf://OWNER/NAME/FILE"
        )
    return Address(match[1], match[2], match[3] or "main", match[4] or "model.safetensors")


def cached_path(text: str, cache_dir: str) -> Path:
    """Returns the path in the cache of a file ``hf://…``; `cache_dir` is ``data.cache_dir``."""
    address = parse(text)
    folder = cache.root(cache_dir) / "weights" / address.owner / address.name / address.revision
    return folder / address.file


def fetch(text: str, cache_dir: str) -> Path:
    """Returns the path of a file in the cache, after downloading it if necessary.

    Args:
      text: ``hf://…``.
      cache_dir: ``data.cache_dir``.

    Raises:
      UserError: no such file, no connection, or a damaged file; says where to put a copy.
    """
    address, path = parse(text), cached_path(text, cache_dir)
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
        write_atomic(sums, _download(address.url, path) + "\n")
    except UserError:
        raise
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise _not_downloaded(address, path, error) from error
        raise UserError(
            f"init.weights: {address.url} is not open to everyone (HTTP {error.code}): accept the "
            f"terms at {address.page} and set HF_TOKEN"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _not_downloaded(address, path, error) from error
    return path


def _not_downloaded(address: Address, path: Path, error: Exception) -> UserError:
    reason = getattr(error, "reason", None) or error
    return UserError(
        f"init.weights: cannot download {address.url} ({reason}); download it elsewhere "
        f"and put it at {path}"
    )


def _request(url: str, method: str) -> urllib.request.Request:
    """A request to the hub's own host, with the user's token; a redirection drops the token."""
    request = urllib.request.Request(url, method=method)
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        if not re.fullmatch(r"[\w.-]{1,1000}", token, re.ASCII):  # else the error would show it
            raise UserError("HF_TOKEN: is not a token of the Hugging Face hub; set it again")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _kept_checksum(sums: Path) -> str:
    try:
        return read_text(sums, 2**10).strip()
    except (OSError, ValueError):
        return "unreadable"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _download(url: str, path: Path) -> str:
    """Downloads to a temporary file, which is renamed when it is complete.

    Returns:
      The SHA-256 of the file, which is the one that the hub states.

    Raises:
      OSError, HTTPException, ValueError: there is no such file, or not the one that the hub states.
    """
    headers, url = _first_headers(url)
    # Not the ETag behind the redirection: only the hub states the SHA-256.
    stated = _stated_checksum(headers)
    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(_request(url, "GET"), timeout=TIMEOUT) as answer:
        linked, length = _size(headers, "X-Linked-Size"), _size(answer.headers, "Content-Length")
        if linked is not None and length is not None and linked != length:
            raise OSError(f"two sizes are stated: {linked:,} and {length:,} bytes")
        size = length if linked is None else linked
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
                    raise OSError(f"more than {limit:,} bytes were sent")
                file.write(block)
            if size is not None and count != size:
                raise OSError(f"only {count:,} of {size:,} bytes were sent")
            if digest.hexdigest() != stated:
                raise OSError("the file has another checksum than the hub states")
    return stated


def _stated_checksum(headers: Message) -> str:
    """The SHA-256 that the hub states, quoted or not."""
    text = headers.get("X-Linked-Etag")
    if text is None:
        raise ValueError("the hub states no SHA-256 of it, in a header X-Linked-Etag")
    match = re.fullmatch(r'("?)([0-9a-f]{64})\1', text.strip())
    if match is None:
        raise ValueError(f"the hub states {text[:80]!r} where the SHA-256 is expected")
    return match[2]


def _size(headers: Message, name: str) -> int | None:
    text = headers.get(name)
    if text is not None and not re.fullmatch("[0-9]{1,18}", text.strip()):
        raise ValueError(f"{name} is {text[:80]!r}, not a size")
    return None if text is None else int(text)


def _first_headers(url: str) -> tuple[Message, str]:
    """Headers of the hub's own answer, before it redirects to another host, and its address.

    A redirection within the hub, from a repository's old name to its new one, is followed.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(5):
        try:
            with opener.open(_request(url, "HEAD"), timeout=TIMEOUT) as answer:
                return answer.headers, url
        except urllib.error.HTTPError as error:
            if not 300 <= error.code < 400:
                raise
            target = urllib.parse.urljoin(url, error.headers.get("Location") or "")
            same_host = urllib.parse.urlsplit(target)[:2] == urllib.parse.urlsplit(url)[:2]
            if "X-Linked-Etag" in error.headers or not same_host:
                return error.headers, url
            url = target
    raise OSError("too many redirections")
