"""The request for a search: one value, completely checked before anything is read or spent.

This module does not import PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec import campaign as campaigns
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import CANDIDATES, ENGINES, FINETUNE_STEPS, METRICS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import DECISION, MODES, Protocol
from rfdetr_repro.spec.ranges import check_ranges, choose
from rfdetr_repro.spec.train_config import TRAIN_WHOLE, TrainConfig

from .budget import Budget
from .deployment import Deployment
from .race import Rules
from .targets import Targets

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

STRATEGIES = ("exhaustive", "race")
CONFIRMED = ("val", "test")  # splits that candidates may be confirmed on
WHERE = "the search"
Bar = Callable[[Iterable[Any]], Iterable[Any]]


def no_bar(step: str) -> Bar:
    """A progress display that shows nothing."""
    return iter


def decided_by(mode: str) -> tuple[Protocol, ...]:
    """The embedded campaign's protocols for a confirmed file, starting with that of ``mode``."""
    return replace(campaigns.EMBEDDED, latency_mode=choose(mode, MODES, "mode")).protocols


@dataclass(frozen=True)
class Cluster:
    """Workers through Ray (docs/many_machines.md).

    ``address``: a running cluster, HOST:PORT or "auto"; None starts a cluster on this machine.
    ``count``: largest number of workers; None: as many as fit.
    """

    address: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Front:
    """Fine-tuning of every confirmed architecture after the search.

    ``steps``: optimizer steps of each; ``recipe``: what else each uses, None for the recipe of the
    model's width; ``processes``: as in a :class:`~rfdetr_repro.train.run.TrainRequest`. Raises
    :class:`InputError` for an impossible number of steps.
    """

    steps: int = FINETUNE_STEPS
    recipe: TrainConfig | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, {"steps": TRAIN_WHOLE["steps"]}, {}, "fine-tuning of the front")


@dataclass(frozen=True)
class SearchRequest:
    """A search of the supernet in ``run`` (its ``supernet.safetensors``) on the val split of
    ``data``.

    ``data``: a data set in one of the forms of docs/data.md, or splits that were already read, by
    name. Records are written to ``run/records.jsonl``, files to ``run/artifacts``. Raises
    :class:`InputError` for values that are impossible or contradict each other.
    """

    run: Path
    data: str | os.PathLike[str] | Mapping[str, CocoSplit]
    space: SearchSpace | None = None  # None: the space that the supernet was trained for
    strategy: str = "exhaustive"  # or "race", with ``rules``
    rules: Rules = Rules()  # frozen
    metric: str = "ap"  # metric that the search maximises, one of METRICS
    masks: bool = False  # evaluate mask AP of every configuration; a mask ``metric`` implies this
    targets: Targets | None = None  # None: the frontier
    budget: Budget | None = None  # a ceiling for the latency; excludes ``targets``
    engines: int = 18  # number of engines measured for the latency model
    # largest number of engines while the cross-validation error is too large; None: twice
    # ``engines``
    most_engines: int | None = None
    candidates: int = 10  # number of configurations measured by the full protocol
    deployment: Deployment = Deployment()  # frozen
    # protocols of a confirmed file; latencies of the first decide
    protocols: tuple[Protocol, ...] = field(default_factory=lambda: decided_by(DECISION.mode))
    confirm_on: tuple[str, ...] = ("val",)  # splits, which include val
    device: str | None = None  # device of the passes over the images; None: a GPU if there is one
    workers: Cluster | None = None  # None: this process
    front: Front | None = None  # fine-tuning of the confirmed architectures; needs a train split
    force: bool = False  # measure even if other processes use the GPU
    campaign: str = "search"  # stored in the Records, like ``command`` and ``seed``
    command: str | None = None
    seed: int | None = None
    # receives lines for the user; and functions that wrap the items of a long step to show
    # progress, by the step's name ("engines", "backbones" or "candidates")
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
                    "raise most_engines, or leave it out for twice the engines",
                )
        if self.space is not None:
            self.space.check()
        if self.budget is not None:
            self._check_budget(self.budget)
        _check_protocols(self.protocols)
        check_confirmed(self.confirm_on, f"confirm_on = {', '.join(self.confirm_on)}")
        if isinstance(self.data, Mapping):
            self._check_splits(self.data)

    def _check_budget(self, budget: Budget) -> None:
        if self.targets is not None:
            raise InputError("a budget and targets", WHERE, "give one of them")
        if (budget.mode, budget.metric) != (self.protocols[0].mode, self.metric):
            raise InputError(
                f"a budget of {budget.mode} latency and {budget.metric} in a search by "
                f"{self.protocols[0].mode} latency and {self.metric}",
                WHERE,
                "give budget and search the same mode and metric",
            )

    def _check_splits(self, splits: Mapping[str, CocoSplit]) -> None:
        for names, use in ((self.confirm_on, "confirm"), (("train",), "fine-tune")):
            missing = [name for name in names if name not in splits]
            if missing and (use == "confirm" or self.front is not None):
                raise InputError(
                    f"there is no split {missing[0]!r} to {use} on",
                    WHERE,
                    "give the data of this split",
                )
        if self.workers is not None:
            raise InputError(
                "workers read the data themselves", WHERE, "give the data set, not its splits"
            )

    @property
    def decision(self) -> Protocol:
        """The deciding protocol: engines, candidates and targets are judged by its latencies."""
        return self.protocols[0]

    @property
    def needs_masks(self) -> bool:
        """Whether the metric is a mask AP."""
        return self.metric.startswith("mask")


def check_confirmed(names: Iterable[str], message: str) -> None:
    """Raises :class:`InputError` with ``message`` unless ``names`` are val, or val and test."""
    if "val" not in names or set(names) - set(CONFIRMED):
        raise InputError(message, hint="write val, or val,test")


def _check_protocols(protocols: tuple[Protocol, ...]) -> None:
    if not protocols or len({protocol.threads for protocol in protocols}) > 1:
        raise InputError(
            f"{len(protocols)} protocols are not possible",
            WHERE,
            "give at least one protocol, all with the same number of threads",
        )
    if not protocols[0].usual:
        raise InputError(
            f"a search by {protocols[0].rhythm} latencies is not possible",
            WHERE,
            "choose buffered or sustained",
        )
