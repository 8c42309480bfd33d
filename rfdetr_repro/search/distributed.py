"""A distributed search: evaluation on all workers of a Ray cluster, engines on a worker with
exclusive use of its machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.predict_split import device_of
from rfdetr_repro.search.cluster.ray_pool import RayPool

from .engines import Engines, EngineSource
from .evaluation import EvaluationSource
from .search import Search


class Workers:
    """The workers of a search; :meth:`join` connects them with the search.

    ``count``: the largest number of workers, or None for as many as fit.
    """

    def __init__(
        self,
        run: Path,
        data: os.PathLike[str],
        count: int | None,
        address: str | None,
        force: bool = False,
    ) -> None:
        """``run``: run folder; ``data``: data set, which every worker reads; ``address``: of a
        running cluster, or None; ``force``: measure even if other processes use a worker's GPU.
        """
        self.run = run.resolve()
        self.data = DataSource.of(data).resolve()
        self.count = count
        self.address = address
        self.force = force
        self._pool: RayPool | None = None
        self._source: EvaluationSource | None = None

    def join(self, search: Search) -> None:
        """Makes ``search`` use these workers."""
        digests = search.checkpoint_sha256, search.split.sha256
        checkpoint = self.run / "supernet.safetensors"
        device = device_of(search.detector).type
        self._source = EvaluationSource(
            checkpoint, digests[0], self.data, digests[1], search.masks, device=device
        )
        self._folder = search.folder.resolve()
        self._deployment = search.deployment
        search.run_items = self.run_items
        search.measure = self.measure

    @property
    def _joined(self) -> EvaluationSource:
        if self._source is None:
            raise RuntimeError("workers are asked for before they joined a search")
        return self._source

    def run_items(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in order of completion."""
        source = self._joined
        if items and self._pool is None:
            gpus = 0.0 if source.device == "cpu" else 1.0
            self._pool = RayPool(source, workers=self.count, address=self.address, gpus=gpus)
        if self._pool is not None:
            yield from self._pool.run(items)

    def measure(self, item: Engines) -> Any:
        """Measures engines on one machine of the cluster, without other work of this search at the
        same time.
        """
        source = self._joined
        self.close()
        make = EngineSource(
            replace(source, device="cpu"), self._folder, self._deployment, self.force
        )
        threads = item.protocol.threads
        gpus = float(self._deployment.on_gpu)
        with closing(
            RayPool(make, 1, self.address, exclusive=True, threads=threads, gpus=gpus)
        ) as pool:
            ((_, found),) = pool.run([item])
        return found

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
