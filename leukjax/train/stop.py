"""A request to stop (SIGTERM, Ctrl-C) is answered between two steps, with everything saved."""

import signal
from types import FrameType


class StopRequest:
    """Catches the signals while it is entered; the second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal: str = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
