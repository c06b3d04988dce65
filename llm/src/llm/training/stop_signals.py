"""SIGTERM and SIGINT as a flag that training looks at."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While the block runs, the first signal sets `received`; the second acts as ever.

    In another thread than the main one nothing is caught: Python lets no other do so.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        # the next one stops at once
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, previous = self._previous.popitem()
            # None: it was set by something else than Python
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
