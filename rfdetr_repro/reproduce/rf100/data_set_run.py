"""The flow of :mod:`..run` for one data set of many: the same stages, with one fixed architecture
measured beside the found ones, and without pictures and a report of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.records.data_sets import FOUND
from rfdetr_repro.records.pareto import metric
from rfdetr_repro.records.record import (
    FINE_TUNING,
    FIXED,
    RF100,
    TUNED,
    Budget,
    DataId,
    MeasuredRecord,
    Record,
    TrainFacts,
)
from rfdetr_repro.reproduce.after import fine_tune, finetuning
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.sizing import Sizing
from rfdetr_repro.spec.train_config import TrainConfig

from .data_sets import facts_of

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.search.request import SearchRequest
    from rfdetr_repro.search.run import LatencyFit, SearchRun

log = logging.getLogger(__name__)

STAGES = ("data", "train", "latency", "search", "confirm", "finetune")


@dataclass(frozen=True)
class Wanted:
    """What is done with each data set.

    ``fixed``: the architecture that is the same for all; ``target_ms``: latency near which is
    searched, None for that of ``fixed``; ``tolerance``: the relative deviation that counts as near;
    ``quick``: few samples of each latency.
    """

    fixed: Arch
    target_ms: float | None = None
    tolerance: float = 0.1
    quick: bool = False


@dataclass
class DataSetRun(Reproduction):
    """The run of one data set, in its own folder. ``wanted`` and ``common`` have to be set.

    ``common``: resolution and queries of all data sets.
    """

    wanted: Wanted | None = None
    common: Sizing | None = None
    records: list[Record] = field(default_factory=list)  # what :meth:`run` found

    def _run(self) -> Path:
        """Runs the stages, and keeps the Records of the fixed architecture, of the found one and of
        the found one after fine-tuning, on val and test.
        """
        tunes = self.campaign.finetune_steps > 0
        self.stages.names = STAGES if tunes else STAGES[:-1]
        splits = self.stages.run("data", "reading the data set", self.data)
        self.follow_data(splits)
        self.stages.later_steps = self.campaign.finetune_steps
        sizing = Sizing.from_json(self.stages.rows["sizing.result"])
        self.train(splits, sizing)
        run = self.search(splits)
        with run.working():
            confirmed = self.find(run)[1]
        found = self._best(confirmed)
        records = [*self._of(confirmed, self._wanted.fixed, FIXED), *self._of(confirmed, found)]
        if tunes:
            recipe = finetuning(self.campaign)
            title = f"fine-tuning {found.key}"
            tuned = self.stages.run(
                "finetune", title, lambda: fine_tune(self, found, splits, recipe)
            )
            records += [one for one in tuned if one.model.variant == TUNED]
        facts = facts_of(splits["train"])
        self.records = [_published(one, facts, self.campaign.train) for one in records]
        return self.folder

    @property
    def _wanted(self) -> Wanted:
        if self.wanted is None:
            raise ValueError("a DataSetRun without what is wanted")
        return self.wanted

    def sizing(self, train: CocoSplit) -> Sizing | None:
        """Resolution and queries of all data sets; mask map and first-stage proposals by the train
        split.
        """
        from rfdetr_repro.train.sized import sizing_for

        if self.common is None:
            raise ValueError("a DataSetRun without common settings")
        own = sizing_for(train, self.campaign.preset.arch.patch)
        return replace(
            own,
            resolution=self.common.resolution,
            queries=self.common.queries,
            reasons=(*self.common.reasons[:2], *own.reasons[2:]),
        )

    def request(self, splits: Mapping[str, CocoSplit]) -> SearchRequest:
        """The request of the flow, decided and confirmed by one protocol."""
        asked = super().request(splits)
        return replace(asked, protocols=asked.protocols[:1])

    @property
    def protocol(self) -> Protocol:
        """The protocol of the measured files."""
        usual = self.campaign.decision
        if not self._wanted.quick:
            return usual
        few = min(16, usual.max_samples)
        return replace(usual, quick=True, min_samples=few, max_samples=few)

    def find(self, run: SearchRun) -> tuple[LatencyFit, list[Record]]:
        """Latency model, passes, and the full protocol of the fixed architecture and of those near
        the target.
        """
        title = f"measuring {self.campaign.latency_mode} latencies of engines for the latency model"
        fit = self.stages.run("latency", title, lambda: self.latency(run))
        records = self.stages.run(
            "search", "accuracy of the configurations", lambda: self.evaluate(run, fit)
        )
        title = "full protocol for the fixed architecture and the architectures near the target"
        confirmed = self.stages.run("confirm", title, lambda: self.confirm(run, fit, records))
        return fit, confirmed

    def confirm(
        self, run: SearchRun, fit: LatencyFit, records: Sequence[Record]
    ) -> tuple[list[Record], str]:
        """Measures the fixed architecture and the best near the target, their latencies in
        turns.
        """
        from rfdetr_repro.search.engines import forecasts
        from rfdetr_repro.search.targets import Targets, candidates

        asked = self._wanted
        predicted_ms = {arch: fit.model.predict(arch) for arch in run.search.space}
        if asked.fixed not in predicted_ms:
            raise InputError(
                f"the fixed architecture {asked.fixed.key} is not in the searched space",
                self.folder.name,
                "choose --fixed from the space that is printed",
            )
        target_ms = asked.target_ms or predicted_ms[asked.fixed]
        targets = Targets((target_ms,), asked.tolerance)
        targets.check(predicted_ms)
        near = candidates(records, self.campaign.candidates, self.campaign.metric, targets)
        archs = list(dict.fromkeys([asked.fixed, *near]))
        found = run.search.confirm_together(
            archs,
            run.splits,
            [self.protocol],
            forecasts(run.search, fit.model, fit.heldout, archs),
        )
        detail = f"{len(archs)} models, target {target_ms:.3g} ms"
        return [record for arch in archs for record in found[arch]], detail

    def _best(self, confirmed: Sequence[Record]) -> Arch:
        """The architecture with the highest AP on val among the files near the target by their
        measured latency; without a file that near, the nearest.
        """
        asked = self._wanted
        value = metric(self.campaign.metric).value
        on_val = [one for one in confirmed if _split(one) == "val" and value(one) is not None]
        if not on_val:
            raise StatedFailure(f"no measured file of {self.folder.name} has an AP on val")
        target = asked.target_ms or next(
            one.as_latency().ms for one in on_val if one.model.arch == asked.fixed
        )

        def miss(record: Record) -> float:
            return abs(record.as_latency().ms - target) / target

        near = [one for one in on_val if miss(one) <= asked.tolerance]
        best = max(near, key=lambda one: value(one) or 0.0) if near else min(on_val, key=miss)
        away = "" if near else f", {miss(best):.0%} from the target"
        ms = best.as_latency().ms
        arch = best.as_searched().arch
        log.info(f"found {arch.key}: val AP {percent(value(best))}, {ms:.3g} ms{away}")
        return arch

    def _of(self, confirmed: Sequence[Record], arch: Arch, variant: str = FOUND) -> list[Record]:
        """The Records of an architecture's file, under the name of a variant."""
        return [
            replace(one, model=replace(one.model, variant=variant))
            for one in confirmed
            if one.model.arch == arch and MeasuredRecord.of(one) is not None
        ]


def _split(record: Record) -> str:
    return record.data.split if record.data else ""


def _published(record: Record, facts: TrainFacts, trained: TrainConfig) -> Record:
    """A Record of the run as a Record of the comparison: with what the data set holds, how long the
    supernet was trained, and with resampled APs on test alone, which keeps files small.
    """
    data = record.data
    if data is None or record.campaign not in (FINE_TUNING, RF100):
        raise ValueError(f"Record {record.id} is of another campaign")
    accuracy = record.accuracy
    if data.split != "test" and accuracy is not None and accuracy.resampled is not None:
        accuracy = replace(accuracy, resampled=replace(accuracy.resampled, aps=None))
    return replace(
        record,
        campaign=RF100,
        seed=trained.seed,
        budget=Budget(trained.steps, trained.batch_size * trained.accumulate),
        data=DataId(data.name, data.split, data.sha256, data.num_images, facts),
        accuracy=accuracy,
        mask_accuracy=None,
    )
