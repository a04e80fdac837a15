"""Options of the web page."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.demo`, and limits that have no flag.

    Attributes:
      max_uploads: requests that may be read or processed at once; others are rejected.
      seconds_to_upload: time that a browser has to send an upload.
      seconds_to_head: time that a connection has to send the head of a request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    step: int | str = "best"
    tta: bool = False
    calibrated: bool = False
    max_error: float | None = None
    max_files: int = 16
    max_bytes: int = 32 << 20
    max_pixels: int = 25_000_000
    max_waiting: int = 256
    batch_size: int = 8
    threads: int = 4
    max_uploads: int = 128
    seconds_to_upload: float = 60.0
    seconds_to_head: float = 10.0

    @property
    def max_connections(self) -> int:
        """Connections at once, including those that wait for a request."""
        return 4 * self.max_uploads

    @property
    def max_bytes_at_once(self) -> int:
        """Bytes of all uploads in progress, in memory and in the temporary folder."""
        return max(256 << 20, 4 * self.max_bytes)
