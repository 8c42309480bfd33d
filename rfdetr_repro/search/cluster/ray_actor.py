"""The far end of a :class:`~rfdetr_repro.search.cluster.ray_pool.RayPool`: one actor per worker.

Imports neither Ray nor torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from .pool import Fingerprint, Make, Work


class RayWorker:
    """Lives in a process of its own; its methods are called in this order, ``pulse`` at any time
    beside them.
    """

    def __init__(self) -> None:
        self._work: Work | None = None
        self._threads = 1

    def hello(self, threads: int, fingerprint: Callable[[], Fingerprint]) -> Fingerprint:
        """First of all: who this is.

        The thread count is set before anything loads a library that reads it.
        """
        self._threads = threads
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        return fingerprint()

    def start(self, make: Make) -> None:
        self._work = make()

    def work(self, item: Any) -> Any:
        if self._work is None:
            raise RuntimeError("work is asked for before start")
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return self._work(item)

    def pulse(self) -> None:
        """Answers while ``work`` runs in another thread: this process is alive."""
