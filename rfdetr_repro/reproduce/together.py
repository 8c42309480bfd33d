"""Several processes on one campaign: training and fine-tuning share every batch, and the passes of
the search are handed out one at a time. Everything else is done by the first process while the
others wait without work, so a latency is measured on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError

if TYPE_CHECKING:
    from rfdetr_repro.data.source import DataSource
    from rfdetr_repro.search.search import Search
    from rfdetr_repro.train.crew import Crew


@dataclass(frozen=True)
class Together:
    """The processes that work on a campaign. ``ranks``: those of ``torchrun``, of which this is the
    first; ``processes``: number of processes of this machine on its CPU, None for one in the search
    and a number that suits batch and cores in trainings.
    """

    ranks: Crew | None = None
    processes: int | None = None

    @property
    def size(self) -> int | None:
        """Number of processes where it was given."""
        return self.processes if self.ranks is None else self.ranks.size

    @contextmanager
    def searching(self, search: Search, data: DataSource | None) -> Iterator[None]:
        """Spreads the passes of ``search`` over the processes while the block runs; ``data``: what
        its split was read from.

        The results are those of one process with as many threads as each of these has. A fault of
        another process is raised as :class:`~rfdetr_repro.spec.errors.InputError` or
        :class:`~rfdetr_repro.spec.errors.StatedFailure`.
        """
        if data is None or self.size in (None, 1):
            yield
            return
        with ExitStack() as stack:
            search.run_items = _Spread(self, search, data, stack)
            try:
                yield
            finally:
                search.run_items = None


class _Spread:
    """The function of a pool that a search calls; the processes start with the first items."""

    def __init__(
        self, together: Together, search: Search, data: DataSource, stack: ExitStack
    ) -> None:
        self.together = together
        self.search = search
        self.data = data.resolve()
        self.stack = stack
        self.crew = together.ranks

    def __call__(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in order of completion; the most expensive items begin first."""
        import torch

        from rfdetr_repro.evaluation.predict_split import device_of
        from rfdetr_repro.search.evaluation import EvaluationSource
        from rfdetr_repro.train.crew import started
        from rfdetr_repro.train.trainer import MODEL

        if not items:
            return
        if self.crew is None:
            self.crew = self.stack.enter_context(started(self.together.processes or 1))
        search = self.search
        source = EvaluationSource(
            search.store.path.parent.resolve() / MODEL,
            search.checkpoint_sha256,
            self.data,
            search.split.sha256,
            search.masks,
            threads=self.crew.threads or torch.get_num_threads(),
            device=device_of(search.detector).type,
        )
        first = sorted(items, key=lambda item: item.archs[0].tokens, reverse=True)
        yield from self.crew.run(source, search.evaluation, first)


def check_processes(processes: int | None, campaign: Campaign) -> None:
    """Raises :class:`InputError` for a number of processes that the campaign's batches cannot be
    split over; and for ``processes`` of this machine's CPU where a GPU trains.
    """
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.spec.launch import place_in_torchrun

    ranks = place_in_torchrun()[1]
    if processes is not None and ranks > 1:
        raise InputError(
            f"--processes {processes} under torchrun, which states the number of processes",
            hint="leave --processes out",
        )
    count = processes or ranks
    trainings = [campaign.train]
    if campaign.pretraining is not None:
        trainings.append(campaign.pretraining.train)
    least = min(one.batch_size for one in trainings)
    if count > least:
        raise InputError(f"a batch of {least} cannot be split over {count} processes")
    if processes is not None and processes > 1 and choose_device().type != "cpu":
        raise InputError(
            f"{processes} processes of one machine are for its CPU",
            hint="start one process per GPU by torchrun, and leave --processes out",
        )
