"""The only entry to a search: :func:`run_search`, and its stages for flows with their own
bookkeeping.

A stage takes the results of the stages before it, so that no stage can run too early:

    run = SearchRun.open(request)
    with run.working():
        fit = run.fit()                                   # engines -> latency model
        found = run.evaluate(fit)                         # accuracy of every configuration
        confirmed = run.confirm(fit, found.records)       # full protocol of the candidates
        final = run.refit(fit, found.records, confirmed)  # the model fitted to those files too

Every stage skips what the store already holds. This module reads and writes the run folder;
:mod:`.search` knows neither request nor folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rfdetr_repro.bench.cells import Context
from rfdetr_repro.data.census import print_census
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.predict_split import device_of
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.ops.device import choose_device, to_device
from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps
from rfdetr_repro.records.model_check import model_checks
from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime import backends
from rfdetr_repro.runtime.agreement import check_against
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import remove_unfinished, write_atomic
from rfdetr_repro.tables.format import render
from rfdetr_repro.train.plan import plan as plan_training

from . import engines
from .evaluation import goal, keep_pictures
from .front import FrontTuning, gains_table, planned
from .latency_model import LatencyModel, RelativeError
from .plan import Job, Plan, plan
from .race import Outcome, Stage
from .request import SearchRequest
from .search import Search, missing_classes
from .stages import CONFIRM, FRONT, LATENCY, SEARCH, Stages, estimated, stage_names
from .targets import candidates, describe_picks

if TYPE_CHECKING:
    from .distributed import Workers

SUPERNET = "supernet.safetensors"
CHECKED_IMAGES = 4  # most images on which an exported file must agree with PyTorch


class LatencyFit(NamedTuple):
    """The latency model, its cross-validation error, and the number of engines measured."""

    model: LatencyModel
    heldout: RelativeError
    engines: int


class Found(NamedTuple):
    """Records of the configurations with modelled latencies, and the outcome of a race."""

    records: list[Record]
    outcome: Outcome | None = None  # None: exhaustive


class Refit(NamedTuple):
    """Records with latencies of the model that is fitted to the confirmed files too, its
    cross-validation error, and the former model's error on these files.
    """

    records: list[Record]
    error: RelativeError
    seen: RelativeError


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    ``records``: Records of every configuration, or of a race's survivors, with exact accuracy and
    modelled latency. ``confirmed``: Records of the candidates, with accuracy and latency of one
    file. ``tuned``: Records of the same architectures after fine-tuning.
    """

    request: SearchRequest
    search: Search
    records: list[Record]
    confirmed: list[Record]
    fit: LatencyFit
    refit: Refit
    outcome: Outcome | None
    tuned: list[Record] = field(default_factory=list)

    @property
    def decided(self) -> list[Record]:
        """The confirmed Records of the searched split."""
        split = self.search.split.split
        return [one for one in self.confirmed if one.data and one.data.split == split]

    def frontier(self) -> list[Record]:
        """Confirmed Records on the Pareto frontier of the searched split, by latencies of the
        deciding mode.
        """
        mode = self.request.decision.mode
        of_mode = [one for one in self.decided if one.protocol and one.protocol.mode == mode]
        return frontier(of_mode, "latency", self.request.metric)

    def lines(self) -> list[str]:
        """The lines that the command prints at the end."""
        request = self.request
        lines = [
            self.refit.seen.describe("latency model on the confirmed files:"),
            f"fitted to them too: {self.refit.error.describe()}",
            *(check.describe() for check in model_checks(self.confirmed)),
            f"{len(self.records)} configurations; Records in {self.search.store.path}",
            f"frontier: rfdetr-repro tables --table frontier --records {self.search.store.path}",
            describe_gaps(ap_gaps([*self.records, *self.confirmed])),
            self.search.space.counted(),
        ]
        if request.targets is not None:
            mode = request.decision.mode
            lines += describe_picks(
                request.targets,
                self.decided,
                request.metric,
                mode,
                lambda arch: self.search.deployed.artifact(arch).path,
            )
        lines = [line for line in lines if line]
        if self.tuned:
            table = gains_table(self.confirmed, self.tuned, request.decision.mode)
            lines += ["", *render([table], "text").rstrip("\n").split("\n")]
        return lines


def run_search(request: SearchRequest, *, estimate: bool = False) -> SearchResult:
    """Runs a search: engines, passes, full protocol of the candidates.

    A repeated call resumes an interrupted search, or reads a finished search. ``estimate``: the
    lines on a search that has stored nothing yet state how long it will take, from a few passes
    timed first. Raises :class:`InputError` for errors that the user can correct, before any
    measurement where possible, and if another run writes the same store.
    """
    run = SearchRun.open(request)
    tell = request.tell
    search = run.search
    tell(f"passes on {device_of(search.detector)}, latencies on {search.deployment_text}")
    with search.store.exclusive(), run.working():
        remove_unfinished(request.run)
        if absent := missing_classes(search.split):
            names = ", ".join(absent)
            tell(
                f"there is no object of {names} in {search.split.split}, so AP does not cover "
                f"these classes"
            )
        stages = run.stages(estimate=estimate and not search.store.ids())
        with stages.stage(LATENCY):
            fit = run.fit()
        with stages.stage(SEARCH):
            found = run.evaluate(fit)
        if found.outcome is not None:
            spent = run.spent(found.outcome)
            left = f"{len(found.records)} configurations remain"
            tell(f"race: {spent} of the image evaluations, {left}; {found.outcome.took()}")
            rounds = [stage._asdict() for stage in found.outcome.stages]
            write_atomic(request.run / "race.json", json.dumps(rounds, indent=1))
        with stages.stage(CONFIRM):
            confirmed = run.confirm(fit, found.records)
        refit = run.refit(fit, found.records, confirmed)
        tuned = []
        if run.front is not None:
            with stages.stage(FRONT):
                tuned = run.tune(confirmed)
    return SearchResult(request, search, refit.records, confirmed, fit, refit, found.outcome, tuned)


def plan_front(request: SearchRequest) -> list[str]:
    """A line with the estimated duration of the fine-tuning of the front, from a few steps timed on
    this machine; empty where none is asked for.
    """
    if request.front is None:
        return []
    run = SearchRun.open(request)
    if run.front is None:
        return []
    recipe = run.front.training(run.search.card.arch).recipe
    hours = plan_training(recipe, choose_device(request.device), len(run.front.split)).hours
    return [planned(recipe, hours, request.candidates)]


def plan_search(request: SearchRequest) -> Plan:
    """Lines with the estimated duration of :func:`run_search`, from a few passes timed on this
    machine; nothing is written.
    """
    return SearchRun.open(request).plan()


@dataclass
class SearchRun:
    """An opened search, whose inputs were read and checked against each other."""

    request: SearchRequest
    search: Search
    splits: tuple[CocoSplit, ...]  # splits that candidates are confirmed on
    front: FrontTuning | None = None  # the fine-tuning of confirmed architectures

    @classmethod
    def open(cls, request: SearchRequest) -> SearchRun:
        """Reads model and data; prints the contents of data that are read here."""
        backends.check_backend(request.deployment.backend)
        search = open_search(request)
        splits = tuple(_split(request, search.card, name, search) for name in request.confirm_on)
        opened = cls(request, search, splits)
        shown = list(splits)
        if request.front is not None:
            train = _split(request, search.card, "train", search)
            opened.front = FrontTuning(request, request.front, search, train, splits)
            opened.front.check()
            shown.append(train)
        if not isinstance(request.data, Mapping):
            print_census(shown)
        return opened

    def plan(self) -> Plan:
        """Times a few passes and one engine on this machine; nothing is written."""
        request = self.request
        job = Job(
            self.search.space,
            len(self.search.split),
            engines.Fit(request.engines, request.most_engines),
            request.candidates,
            request.protocols,
            request.rules if request.strategy == "race" else None,
            request.deployment.in_torch,
        )
        return plan(self.search.detector, job)

    def stages(self, *, estimate: bool) -> Stages:
        """The stages of :func:`run_search`; ``estimate``: with durations by :meth:`plan`."""
        front = self.request.front
        return Stages(
            stage_names(front is not None),
            self.request.tell,
            estimated(self.plan()) if estimate else {},
            0 if front is None else front.steps * self.request.candidates,
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside the context, the deployment's GPU is watched, and workers are available."""
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
        """Measures engines and fits the latency model.

        With targets, raises :class:`StatedFailure` if the model is too inaccurate for them, and
        :class:`InputError` if no configuration is near a target.
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
        """Evaluates every configuration, or races them."""
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
        """The share of all image evaluations that a race needed, in percent."""
        whole = len(self.search.space) * len(self.search.split)
        return f"{outcome.evaluations() / whole:.1%}"

    def confirm(
        self, fit: LatencyFit, records: Sequence[Record], *, check_exports: bool = False
    ) -> list[Record]:
        """Measures the candidates among ``records`` by the full protocol. With a budget that none
        of them keeps, measures faster configurations too, until a file is within the budget or the
        fastest has been measured.

        ``check_exports``: first compare each exported file with PyTorch on a few images.
        """
        request = self.request
        chosen = candidates(
            records, request.candidates, request.metric, request.targets, request.budget
        )
        confirmed = self._measured(fit, chosen, check_exports)
        budget = request.budget
        while budget is not None and not budget.kept_by(confirmed):
            further = [one.as_searched().arch for one in budget.faster(records, confirmed)]
            if not further:
                break
            request.tell(
                f"no file measured so far is within {budget.ms:g} ms; measuring {further[0].key} "
                f"too, which the latency model calls faster"
            )
            confirmed += self._measured(fit, further, check_exports)
        return confirmed

    def _measured(
        self, fit: LatencyFit, chosen: Sequence[Arch], check_exports: bool
    ) -> list[Record]:
        """Records of these architectures by the full protocol."""
        search = self.search
        predicted = engines.forecasts(search, fit.model, fit.heldout, chosen)
        confirmed = []
        for arch in self.request.progress("candidates")(chosen):
            if check_exports:
                self._check_export(arch)
            confirmed += search.confirm(arch, self.splits, self.request.protocols, predicted[arch])
        return confirmed

    def tune(self, confirmed: Sequence[Record]) -> list[Record]:
        """Fine-tunes and measures the architectures of ``confirmed``; says before how many there
        are and about how long they take. Empty where this is not asked for.
        """
        if self.front is None:
            return []
        archs = list(dict.fromkeys(one.as_searched().arch for one in confirmed))
        for line in self.front.lines(archs):
            self.request.tell(line)
        return self.front.tune(archs, self.request.tell)

    def refit(
        self, fit: LatencyFit, records: Sequence[Record], confirmed: Sequence[Record]
    ) -> Refit:
        """Fits the latency model to the confirmed files too, after a comparison with its
        predictions for them.
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
        workers = request.workers
        return Workers(request.run, source, workers.count, workers.address, request.force)

    def _tell_stage(self, stage: Stage) -> None:
        kept = stage.entered - len(stage.left) - len(stage.spared)
        last = stage.images == len(self.search.split)  # after which none is dropped any more
        spared = (
            f"; {len(stage.spared)} are dropped with their backbones, which add little"
            if stage.spared
            else ""
        )
        self.request.tell(
            f"race: after {stage.images} images {kept} of {stage.entered} configurations "
            f"{'may be on the frontier' if last else 'go on'}{spared}"
        )

    def _check_export(self, arch: Arch) -> None:
        search = self.search
        count = min(CHECKED_IMAGES, len(search.split))
        pictures = [search.split.load_image(index) for index in range(count)]
        images = network_input(pictures, arch.input_hw)
        session = search.deployed.open_exact(arch, self.request.protocols[0].threads)
        check_against(search.detector.slice(arch), session, images)


def open_search(request: SearchRequest) -> Search:
    """The search of the request's supernet on the val split, after a check of one against the
    other.

    Nothing is written.
    """
    run = request.run
    detector, card, digest = load_supernet(run / SUPERNET)
    if (space := request.space or card.space) is None:
        raise InputError(
            "this model was trained for a single architecture",
            run,
            "train a supernet (without --fixed)",
        )
    if request.needs_masks and not card.config.masks:
        raise InputError(
            "this model has no mask head, so a search for mask AP is not possible",
            run,
            "choose ap or ap50",
        )
    masks = card.config.masks and (request.masks or request.needs_masks)
    split = _split(request, card, "val")
    if masks and (why := split.why_no_mask_ap()):
        raise InputError(
            f"mask AP on val cannot be measured: {why}",
            split.name if isinstance(request.data, Mapping) else request.data,
            "correct the masks, or choose ap or ap50",
        )
    keep_pictures(split)
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
    """The split ``name`` of the request's data, in the supernet's classes; the split of ``search``
    is not read twice.
    """
    if search is not None and name == search.split.split:
        return search.split
    if isinstance(request.data, Mapping):
        return request.data[name]
    source = DataSource.of(request.data)
    split = read_split(source, name, ClassMap(card.category_ids, card.class_names))
    if name != "val" and not len(split.table.ids):
        hint = "leave out --finetune-front" if name == "train" else "leave it out of --confirm-on"
        raise InputError(f"the split {name!r} has no annotations", source, hint)
    return split
