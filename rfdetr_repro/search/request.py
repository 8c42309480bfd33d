"""What a search is asked for: one value, checked whole before anything is read or spent.

No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec import campaign as campaigns
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import CANDIDATES, ENGINES, METRICS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import DECISION, MODES, Protocol
from rfdetr_repro.spec.ranges import check_ranges, choose

from .deployment import Deployment
from .race import Rules
from .targets import Targets

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

STRATEGIES = ("exhaustive", "race")
CONFIRMED = ("val", "test")  # splits that a candidate may be confirmed on
WHERE = "the search"
Bar = Callable[[Iterable[Any]], Iterable[Any]]


def no_bar(step: str) -> Bar:
    """Shows nothing."""
    return iter


def decided_by(mode: str) -> tuple[Protocol, ...]:
    """The embedded campaign's protocols of a confirmed file, that of ``mode`` first."""
    return replace(campaigns.EMBEDDED, latency_mode=choose(mode, MODES, "mode")).protocols


@dataclass(frozen=True)
class Cluster:
    """Workers through Ray (docs/many_machines.md).

    ``address`` of a running cluster, HOST:PORT or "auto"; None: a cluster of this machine alone.
    ``count``: the most workers; None: as many as the cluster has room for.
    """

    address: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class SearchRequest:
    """A search of the supernet in ``run`` (its ``supernet.safetensors``) on the val split of
    ``data``.

    ``data``: a data set in a form of docs/data.md, or splits that were read already, by name.
    Records go to ``run/records.jsonl``, files to ``run/artifacts``. Values that cannot be, or do
    not fit together, are an :class:`InputError`.
    """

    run: Path
    data: str | os.PathLike[str] | Mapping[str, CocoSplit]
    space: SearchSpace | None = None  # None: the space that the supernet was trained for
    strategy: str = "exhaustive"  # or "race", by ``rules``
    rules: Rules = Rules()  # frozen
    metric: str = "ap"  # what the search maximises: one of METRICS
    masks: bool = (
        False  # mask AP of every configuration, if the model has masks; also by ``metric``
    )
    targets: Targets | None = None  # None: the frontier
    engines: int = 18  # measured for the latency model
    # while the model's error in a cross-validation is too large; None: twice ``engines``
    most_engines: int | None = None
    candidates: int = 10  # configurations that get the full protocol
    deployment: Deployment = Deployment()  # frozen
    # of a confirmed file; by latencies of the first everything is decided
    protocols: tuple[Protocol, ...] = field(default_factory=lambda: decided_by(DECISION.mode))
    confirm_on: tuple[str, ...] = ("val",)  # splits, val among them
    device: str | None = None  # of the passes over the images; None: a GPU if there is one
    workers: Cluster | None = None  # None: this process
    force: bool = False  # measure even while other programs use the GPU
    campaign: str = "search"  # of the Records, as are ``command`` and ``seed``
    command: str | None = None
    seed: int | None = None
    # where lines for the user go, and how a long step shows its progress: by the step's name
    # ("engines", "backbones" or "candidates") what wraps its items
    tell: Callable[[str], None] = field(default=lambda line: None, compare=False, repr=False)
    progress: Callable[[str], Bar] = field(default=no_bar, compare=False, repr=False)

    def __post_init__(self) -> None:
        choose(self.strategy, STRATEGIES, "strategy", WHERE)
        choose(self.metric, METRICS, "metric", WHERE)
        check_ranges(self, {"engines": ENGINES, "candidates": CANDIDATES}, {}, WHERE)
        if self.most_engines is not None:
            check_ranges(self, {"most_engines": ENGINES}, {}, WHERE)
            if self.most_engines < self.engines:
                raise InputError(
                    f"most_engines = {self.most_engines} is less than engines = {self.engines}",
                    WHERE,
                    "raise it, or leave it out for twice the engines",
                )
        if self.space is not None:
            self.space.check()
        _check_protocols(self.protocols)
        check_confirmed(self.confirm_on, f"confirm_on = {', '.join(self.confirm_on)}")
        if isinstance(self.data, Mapping):
            self._check_splits(self.data)

    def _check_splits(self, splits: Mapping[str, CocoSplit]) -> None:
        if missing := [name for name in self.confirm_on if name not in splits]:
            raise InputError(f"no split {missing[0]!r} to confirm on", WHERE, "give its data")
        if self.workers is not None:
            raise InputError(
                "workers read the data themselves", WHERE, "give the data set, not its splits"
            )

    @property
    def decision(self) -> Protocol:
        """The protocol by whose latencies engines are fitted, candidates chosen, targets met."""
        return self.protocols[0]

    @property
    def needs_masks(self) -> bool:
        """Whether the metric is of masks."""
        return self.metric.startswith("mask")


def check_confirmed(names: Iterable[str], told: str) -> None:
    """Raises :class:`InputError`, which says ``told``, unless val is among ``names`` and nothing
    but val and test.
    """
    if "val" not in names or set(names) - set(CONFIRMED):
        raise InputError(told, hint="write val, or val,test")


def _check_protocols(protocols: tuple[Protocol, ...]) -> None:
    if not protocols or len({protocol.threads for protocol in protocols}) > 1:
        raise InputError(
            f"{len(protocols)} protocols", WHERE, "give at least one, all of one number of threads"
        )
    if not protocols[0].usual:
        raise InputError(
            f"a search by {protocols[0].rhythm} latencies is not possible",
            WHERE,
            "choose buffered or sustained",
        )
