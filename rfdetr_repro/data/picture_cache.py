"""Decoded pictures that stay in memory, up to a number of bytes.

Pictures are never replaced by others: passes over a data set read all pictures in order, where a
cache that replaces the least recently used one would hold none of those that are asked for next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np


class PictureCache:
    """The first pictures that fit into ``max_bytes``. Several threads may ask at once; a picture
    that is being decoded by one of them is waited for, not decoded twice.
    """

    def __init__(self, max_bytes: int) -> None:
        """Empty."""
        self.max_bytes = max_bytes
        self.bytes = 0  # of the pictures that are kept
        self.decoded = 0  # times that a picture had to be decoded
        self.reused = 0  # times that a picture was in memory
        self._kept: dict[int, np.ndarray] = {}
        self._busy: dict[int, Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, index: int, decode: Callable[[int], np.ndarray]) -> np.ndarray:
        """The picture ``index``, from memory or by ``decode(index)``, whose errors are raised."""
        with self._lock:
            if (kept := self._kept.get(index)) is not None:
                self.reused += 1
                return kept
            busy = self._busy.get(index)
            own = Future[np.ndarray]() if busy is None else busy
            if busy is None:
                self._busy[index] = own
                self.decoded += 1
            else:
                self.reused += 1
        if busy is not None:
            return busy.result()
        try:
            picture = decode(index)
        except BaseException as error:
            with self._lock:
                del self._busy[index]
            own.set_exception(error)
            raise
        with self._lock:
            if self.bytes + picture.nbytes <= self.max_bytes:
                self._kept[index] = picture
                self.bytes += picture.nbytes
            del self._busy[index]
        own.set_result(picture)
        return picture
