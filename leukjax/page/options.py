"""What the page is told at its start."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.demo`, which says what they are.

    Attributes:
      max_uploads: requests that may be read or answered at once; more are refused.
      seconds_to_upload: that a browser has to send one.
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
