"""Uploads as browsers send them, over a real connection."""

import http.client
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 30


def cell(number: int, side: int = SIDE) -> np.ndarray:
    random = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = random.integers(40, 200, (side, side, 3)).astype(np.uint8)
    image[np.hypot(x, y) > side * random.uniform(0.2, 0.48)] = 0
    return image


def encoded(image: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind, **options)
    return file.getvalue()


def form(files: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Content type and body."""
    parts = []
    for name, data in files:
        escaped = name.replace('"', "%22").encode()  # as in the HTML standard
        head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="'
        parts.append(head + escaped + b'"\r\nContent-Type: image/png\r\n\r\n' + data + b"\r\n")
    return "multipart/form-data; boundary=edge", b"".join([*parts, b"--edge--\r\n"])


class Client:
    """Sends requests to a page."""

    def __init__(self, port: int):
        self.port = port

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Returns status, headers (in lower case) and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, text
        finally:
            connection.close()

    def send(self, *files: tuple[str, bytes], path: str = "/answers.json", **headers: str):
        kind, body = form(files)
        return self.request("POST", path, body, Content_Type=kind, **headers)

    def rows(self, *files: tuple[str, bytes]) -> list[dict]:
        status, _, text = self.send(*files)
        assert status == 200, text
        return json.loads(text)["answers"]
