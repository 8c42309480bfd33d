"""The remote side of a :class:`~rfdetr_repro.search.cluster.ray_pool.RayPool`: one actor per
worker.

The module imports neither Ray nor PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from .pool import Fingerprint, Make, Work


class RayWorker:
    """An actor in a process of its own; its methods are called in this order, and ``pulse`` at any
    time.
    """

    def __init__(self) -> None:
        """Starts without work."""
        self._work: Work | None = None
        self._threads = 1

    def hello(self, threads: int, fingerprint: Callable[[], Fingerprint]) -> Fingerprint:
        """The first call: the worker's fingerprint.

        The number of threads is set before any library that reads it is loaded.
        """
        self._threads = threads
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        return fingerprint()

    def start(self, make: Make) -> None:
        """Runs ``make``, which loads the work."""
        self._work = make()

    def work(self, item: Any) -> Any:
        """The result of ``item``."""
        if self._work is None:
            raise RuntimeError("work is asked for before start")
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return self._work(item)

    def pulse(self) -> None:
        """Answers while ``work`` runs in another thread, as a sign of life."""
