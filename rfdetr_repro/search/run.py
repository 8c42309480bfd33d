"""The one door to a search: :func:`run_search`, and its stages for a flow with a bookkeeping of its
own.

A stage takes what the stages before it gave, so that none can run too early:

    run = SearchRun.open(request)
    with run.working():
        fit = run.fit()                                   # engines -> latency model
        found = run.evaluate(fit)                         # accuracy of every configuration
        confirmed = run.confirm(fit, found.records)       # full protocol of the candidates
        final = run.refit(fit, found.records, confirmed)  # the model fitted to those files too

Every stage skips what the store already holds. This module reads and writes the run folder;
:mod:`.search` knows no request and no folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rfdetr_repro.bench.confirm import Context
from rfdetr_repro.data.annotations import ClassMap
from rfdetr_repro.data.census import print_census
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.predict_split import device_of
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.ops.device import to_device
from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps
from rfdetr_repro.records.model_check import model_checks
from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime import backends
from rfdetr_repro.runtime.agreement import check_against
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import remove_unfinished, write_atomic

from . import engines
from .evaluation import goal
from .latency_model import LatencyModel, RelativeError
from .plan import Job, Plan, plan
from .race import Outcome, Stage
from .request import SearchRequest
from .search import Search, missing_classes
from .targets import candidates, describe_picks

if TYPE_CHECKING:
    from .distributed import Workers

SUPERNET = "supernet.safetensors"
CHECKED_IMAGES = 4  # on which an exported file must agree with PyTorch


class LatencyFit(NamedTuple):
    """The latency model, its error on engines left out of the fit, and how many were measured."""

    model: LatencyModel
    heldout: RelativeError
    engines: int


class Found(NamedTuple):
    """Records of the configurations, with latencies by the model; and how a race went."""

    records: list[Record]
    outcome: Outcome | None = None  # None: exhaustive


class Refit(NamedTuple):
    """Records with latencies of the model fitted to the confirmed files too; its error on what is
    left out of the fit; the former model's error on these files.
    """

    records: list[Record]
    error: RelativeError
    seen: RelativeError


@dataclass(frozen=True)
class SearchResult:
    """``records``: of every configuration, or of those a race left, accuracy exact and latency
    modelled. ``confirmed``: of the candidates, accuracy and latency of one file.
    """

    request: SearchRequest
    search: Search
    records: list[Record]
    confirmed: list[Record]
    fit: LatencyFit
    refit: Refit
    outcome: Outcome | None

    @property
    def decided(self) -> list[Record]:
        """The confirmed Records of the searched split."""
        split = self.search.split.split
        return [one for one in self.confirmed if one.data and one.data.split == split]

    def frontier(self) -> list[Record]:
        """Confirmed files that no other beats, on the searched split, by latencies of the deciding
        mode.
        """
        mode = self.request.decision.mode
        of_mode = [one for one in self.decided if one.protocol and one.protocol.mode == mode]
        return frontier(of_mode, "latency", self.request.metric)

    def lines(self) -> list[str]:
        """What the command prints at the end."""
        request = self.request
        lines = [
            self.refit.seen.describe("latency model on the confirmed files:"),
            f"fitted to them too: {self.refit.error.describe()}",
            *(check.describe() for check in model_checks(self.confirmed)),
            f"{len(self.records)} configurations; Records in {self.search.store.path}",
            describe_gaps(ap_gaps([*self.records, *self.confirmed])),
            self.search.space.counted(),
        ]
        if request.targets is not None:
            mode = request.decision.mode
            lines += describe_picks(request.targets, self.decided, request.metric, mode)
        return [line for line in lines if line]


def run_search(request: SearchRequest) -> SearchResult:
    """Searches: engines, passes, full protocol of the candidates.

    Run again, it goes on where it was, or reads what is finished. :class:`InputError` for what can
    be corrected, before anything is measured where it can be known by then; another run that writes
    the same store is one.
    """
    run = SearchRun.open(request)
    tell = request.tell
    search = run.search
    tell(f"passes on {device_of(search.detector)}, latencies on {search.deployment_text}")
    with search.store.exclusive(), run.working():
        remove_unfinished(request.run)
        if absent := missing_classes(search.split):
            told = ", ".join(absent)
            tell(f"no object of {told} in {search.split.split}: AP says nothing about that")
        fit = run.fit()
        found = run.evaluate(fit)
        if found.outcome is not None:
            spent = run.spent(found.outcome)
            left = f"{len(found.records)} configurations left"
            tell(f"race: {spent} of the image evaluations, {left}; {found.outcome.took()}")
            stages = [stage._asdict() for stage in found.outcome.stages]
            write_atomic(request.run / "race.json", json.dumps(stages, indent=1))
        confirmed = run.confirm(fit, found.records)
        refit = run.refit(fit, found.records, confirmed)
    return SearchResult(request, search, refit.records, confirmed, fit, refit, found.outcome)


def plan_search(request: SearchRequest) -> Plan:
    """What :func:`run_search` would take, from a few passes timed here; nothing is written."""
    run = SearchRun.open(request)
    job = Job(
        run.search.space,
        len(run.search.split),
        engines.Fit(request.engines, request.most_engines),
        request.candidates,
        request.protocols,
        request.rules if request.strategy == "race" else None,
    )
    return plan(run.search.detector, job)


@dataclass
class SearchRun:
    """A search that was opened: everything it needs is read and known to fit together."""

    request: SearchRequest
    search: Search
    splits: tuple[CocoSplit, ...]  # that candidates are confirmed on

    @classmethod
    def open(cls, request: SearchRequest) -> SearchRun:
        """Reads model and data, and says what is in the data if this is where they are read."""
        backends.check_backend(request.deployment.backend)
        search = open_search(request)
        splits = tuple(_split(request, search.card, name, search) for name in request.confirm_on)
        if not isinstance(request.data, Mapping):
            print_census(splits)
        return cls(request, search, splits)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, the GPU that the deployment uses is watched, and workers wait for work."""
        workers = self._workers()
        request = self.request
        try:
            with request.deployment.watched(force=request.force) as self.search.watched:
                if workers is not None:
                    workers.join(self.search)
                yield
        finally:
            if workers is not None:
                workers.close()

    def fit(self) -> LatencyFit:
        """Measures engines and fits the latency model; with targets it must be fine enough for
        them, and some configuration must lie near each.
        """
        request = self.request
        search = self.search
        bar = request.progress("engines")
        fit = LatencyFit(*engines.fit_latency(search, self._asked_fit, bar, request.tell))
        if request.targets is not None:
            self._asked_fit.check(fit.heldout)
            request.targets.check({arch: fit.model.predict(arch) for arch in search.space})
        return fit

    def evaluate(self, fit: LatencyFit) -> Found:
        """Accuracy of every configuration, or of those that a race leaves."""
        request = self.request
        search = self.search
        if request.strategy == "exhaustive":
            bar = request.progress("backbones")
            return Found(search.evaluate_all(fit.model, fit.heldout, bar))
        records, outcome = search.race(
            fit.model,
            fit.heldout,
            goal=goal(request.metric),
            rules=request.rules,
            progress=self._tell_stage,
        )
        return Found(records, outcome)

    def spent(self, outcome: Outcome) -> str:
        """The part of all image evaluations that a race took, in percent."""
        whole = len(self.search.space) * len(self.search.split)
        return f"{outcome.evaluations() / whole:.1%}"

    def confirm(
        self, fit: LatencyFit, records: Sequence[Record], *, check_exports: bool = False
    ) -> list[Record]:
        """The full protocol of the candidates among ``records``.

        ``check_exports``: before that, each exported file must agree with PyTorch on a few images.
        """
        request = self.request
        search = self.search
        chosen = candidates(records, request.candidates, request.metric, request.targets)
        said = engines.forecasts(search, fit.model, fit.heldout, chosen)
        confirmed = []
        for arch in request.progress("candidates")(chosen):
            if check_exports:
                self._check_export(arch)
            confirmed += search.confirm(arch, self.splits, request.protocols, said[arch])
        return confirmed

    def refit(
        self, fit: LatencyFit, records: Sequence[Record], confirmed: Sequence[Record]
    ) -> Refit:
        """Fits the latency model to the confirmed files too, after a look at what it had said of
        them.
        """
        model, error, seen = engines.refit_latency(
            self.search, self._asked_fit, confirmed, fit.model, fit.heldout
        )
        return Refit(self.search.refit(records, model, error, seen), error, seen)

    @property
    def _asked_fit(self) -> engines.Fit:
        request = self.request
        fit = engines.Fit(request.engines, request.most_engines)
        return fit if request.targets is None else fit.within(request.targets.tolerance)

    def _workers(self) -> Workers | None:
        request = self.request
        if request.workers is None:
            return None
        if isinstance(request.data, Mapping):
            raise InputError("workers read the data themselves", hint="give the path of a data set")
        from .distributed import Workers

        source = DataSource.of(request.data)
        return Workers(request.run, source, request.workers.count, request.workers.address)

    def _tell_stage(self, stage: Stage) -> None:
        kept = stage.entered - len(stage.left)
        self.request.tell(
            f"race: after {stage.images} images {kept} of {stage.entered} configurations may be "
            f"on the frontier"
        )

    def _check_export(self, arch: Arch) -> None:
        search = self.search
        pictures = [search.split.load_image(index) for index in range(CHECKED_IMAGES)]
        images = network_input(pictures, arch.input_hw)
        session = OrtSession(search.deployed.export(arch), self.request.protocols[0].threads)
        check_against(search.detector.slice(arch), session, images)


def open_search(request: SearchRequest) -> Search:
    """The search of the request's supernet on its val split, after a check that they fit together.

    Nothing is written.
    """
    run = request.run
    detector, card, digest = load_supernet(run / SUPERNET)
    if (space := request.space or card.space) is None:
        raise InputError(
            "this model was trained for one architecture only",
            run,
            "train a supernet (without --fixed)",
        )
    if request.needs_masks and not card.config.masks:
        raise InputError("this model has no masks to search by", run, "choose ap or ap50")
    masks = card.config.masks and (request.masks or request.needs_masks)
    split = _split(request, card, "val")
    if masks and (why := split.why_no_mask_ap()):
        raise InputError(
            f"mask AP on val cannot be measured: {why}",
            split.name if isinstance(request.data, Mapping) else request.data,
            "correct the masks, or choose ap or ap50",
        )
    split.cache_images()
    return Search(
        to_device(detector, request.device),
        card,
        digest,
        space,
        split,
        Store(run / "records.jsonl"),
        run / "artifacts",
        Context(request.campaign, request.command, request.seed),
        masks=masks,
        deployment=request.deployment,
        decision=request.decision,
    )


def _split(
    request: SearchRequest, card: ModelCard, name: str, search: Search | None = None
) -> CocoSplit:
    """Split ``name`` of the request's data, in the supernet's classes; what ``search`` has read is
    not read twice.
    """
    if search is not None and name == search.split.split:
        return search.split
    if isinstance(request.data, Mapping):
        return request.data[name]
    source = DataSource.of(request.data)
    split = read_split(source, name, ClassMap(card.category_ids, card.class_names))
    if name != "val" and not len(split.table.ids):
        raise InputError(
            f"split {name!r} has no annotations", source, "leave it out of --confirm-on"
        )
    return split
