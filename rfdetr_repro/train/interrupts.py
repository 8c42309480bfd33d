"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) during a training run: raised where the
training state is complete, and delayed elsewhere.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from rfdetr_repro.spec.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Context manager. Inside, a signal raises :class:`Interrupted` at once within :meth:`allowed`,
    else at the next :meth:`allowed`.

    A signal after the last :meth:`allowed` is raised at the end. Handlers can be set in a program's
    main thread only: in another thread, and for a signal that the process ignores, nothing changes.
    """

    def __init__(self) -> None:
        """Changes no handler yet; see :meth:`__enter__`."""
        self.asked: int | None = None  # number of the first signal that came
        self._open = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Interrupts:
        self.asked = None
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
        if error is None and self.asked is not None:
            raise Interrupted(self.asked, "when the training was complete: its model is saved")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        if self._open:
            self._open = False
            raise Interrupted(self.asked)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Surrounds work that may be abandoned half-way without a trace in what is saved."""
        if self.asked is not None:
            raise Interrupted(self.asked)
        self._open = True
        try:
            yield
        finally:
            self._open = False
