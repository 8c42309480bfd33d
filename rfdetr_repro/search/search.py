"""The search: AP and latency Records of every configuration of a space, frontier candidates, and
their full protocol.

Accuracy comes from the shared pass (``evaluation.py``), for all configurations or for the survivors
of a race (``race.py``); latency comes from the additive model, which is fitted to a few engines
(``engines.py``). Only candidates for the frontier are exported and fully measured, with accuracy
and latency from the same file. Every step skips the Records that the store already holds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rfdetr_repro.bench.cells import Context, Row
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.bench.gpu.device import Watched
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import Matches, Objects, accuracy_of
from rfdetr_repro.export.artifact import ArtifactMeta
from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import AP_RULE, Accuracy, DataId, Latency, Machine, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbones import stated_backbone
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import atomic_path
from rfdetr_repro.spec.protocol import DECISION, Protocol

from .deployment import Deployed, Deployment
from .evaluation import GOALS, Goal, GroupEvaluation, Part, Parts, Whole, by_backbone
from .latency_model import LatencyModel, RelativeError
from .race import Outcome, Rules, Stage, race

log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any]], Iterable[Any]]
# a pool's function, which yields (item, result) in order of completion
Run = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]  # of Whole or of Part
Item = TypeVar("Item", Whole, Part)


@dataclass
class Search:
    """A search of one supernet on one validation split, with one store; ``folder`` holds the
    exported files.

    Raises :class:`InputError` for a space that the supernet does not contain.
    """

    detector: Detector
    card: ModelCard
    checkpoint_sha256: str
    space: SearchSpace
    split: CocoSplit
    store: Store
    folder: Path
    context: Context = field(default_factory=Context)
    masks: bool = True
    deployment: Deployment = Deployment()  # frozen; the runtime that latencies are measured on
    # variant of the models in Records; None: as searched
    variant: str | None = None
    # protocol whose latencies engines, candidates and targets are judged by
    decision: Protocol = DECISION
    # watch on the deployment's GPU while engines are measured
    watched: Watched | None = None
    # machine on which the engines of the latency model ran; None: not measured yet
    measured_on: Machine | None = None
    run_items: Run | None = None  # function of a pool of workers; None: in this process, in order
    # measures engines on a separate worker (``engines.py``); None: in this process
    measure: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        trained = self.card.space or self.space
        backbones = {arch.backbone for arch in self.space.check()}
        known = {arch.backbone for arch in trained}
        if not backbones & known:
            raise InputError(
                "no backbone of the search space was trained", hint=f"trained: {trained}"
            )
        if (
            max(self.space.decoder_layers) > self.card.config.decoder_layers
            or max(self.space.queries) > self.card.config.queries
        ):
            stored = (
                f"{self.card.config.decoder_layers} decoder layers and {self.card.config.queries} "
                f"queries"
            )
            raise InputError(
                "the search space needs a larger decoder than the checkpoint holds",
                hint=f"the checkpoint has {stored}",
            )

    def model_id(self, arch: Arch) -> ModelId:
        """The identity of an architecture's model in Records."""
        task = "segment" if self.card.config.masks else "detect"
        return ModelId(
            "rfdetr",
            f"rfdetr-{arch.key}",
            task,
            variant=self.variant,
            arch=arch,
            checkpoint_sha256=self.checkpoint_sha256,
            backbone=stated_backbone(self.card.config),
            trained_in=self.card.precision,
        )

    @property
    def deployed(self) -> Deployed:
        """The supernet on the deployment, which makes the files that are measured."""
        return Deployed(self.deployment, self.detector, self._meta, self.folder, self.split)

    def _meta(self, arch: Arch) -> ArtifactMeta:
        card = self.card
        return ArtifactMeta(
            self.model_id(arch), card.class_names, card.category_ids, card.resize_rule
        )

    @property
    def deployment_text(self) -> str:
        """The runtime, precision and mode of modelled latencies, in words."""
        return f"{self.deployment} {self.decision.short}"

    def confirm(
        self,
        arch: Arch,
        splits: Sequence[CocoSplit],
        protocols: Sequence[Protocol],
        predicted: Latency | None = None,
    ) -> list[Record]:
        """Measures an architecture on the deployment by the full protocol, with accuracy and
        latency from the same file.

        ``predicted``: the latency model's earlier prediction, which is added to Records of the
        deciding mode that have no prediction yet.
        """
        known = {} if predicted is None else {arch: predicted}
        return self.confirm_together([arch], splits, protocols, known)[arch]

    def confirm_together(
        self,
        archs: Sequence[Arch],
        splits: Sequence[CocoSplit],
        protocols: Sequence[Protocol],
        predicted: Mapping[Arch, Latency],
    ) -> dict[Arch, list[Record]]:
        """:meth:`confirm` of several architectures, whose latencies are measured in turns, so that
        the state of the machine is the same for all.
        """
        deployed = self.deployed
        threads = protocols[0].threads
        rows = {
            arch.key: Row(deployed.file(arch), partial(deployed.open, arch, threads), tuple(splits))
            for arch in archs
        }
        context = self.context
        watch = self.watched and self.watched.watch
        if self.watched is not None:
            context = replace(context, machine=self.watched.machine)
        outcome = confirm_all(
            rows, protocols, self.store, context=context, watch=watch, twin="once"
        )
        for failure in outcome.failures.values():
            raise failure
        return {
            arch: [
                self._with_prediction(record, predicted.get(arch))
                for record in outcome.records[arch.key]
            ]
            for arch in archs
        }

    def _with_prediction(self, record: Record, predicted: Latency | None) -> Record:
        decided = record.protocol is not None and record.protocol.short == self.decision.short
        if (
            predicted is None
            or not decided
            or record.latency is None
            or record.latency.predicted_ms is not None
        ):
            return record
        latency = replace(
            record.latency,
            predicted_ms=predicted.median_ms,
            heldout_error=predicted.heldout_error,
            heldout_p95=predicted.heldout_p95,
        )
        return self.store.append(replace(record, latency=latency))

    @property
    def machine(self) -> Machine:
        """This machine, with the GPU if the deployment uses a GPU."""
        return self.watched.machine if self.watched is not None else this_machine()

    def record(self, source: str, arch: Arch) -> Record:
        """A Record of an architecture without results."""
        return Record(
            source,
            self.model_id(arch),
            data=DataId(self.split.name, self.split.split, self.split.sha256, len(self.split)),
            machine=self.measured_on or self.machine,
            campaign=self.context.campaign,
            started_at=utc_now(),
            command=self.context.command,
            seed=self.context.seed,
            deployment=self.deployment_text,
            env=environment(),
        )

    @cached_property
    def evaluation(self) -> GroupEvaluation:
        """The evaluation of work items in this process."""
        return GroupEvaluation(self.detector, self.split, self.masks)

    def evaluate_all(
        self, model: LatencyModel, heldout: RelativeError, progress: Progress = iter
    ) -> list[Record]:
        """Records of the source "search" for every configuration, with exact accuracy by shared
        passes and modelled latency.

        An accuracy that the store already holds, even with a latency on another deployment, is not
        computed again.
        """
        stored = {record.id: record for record in self.store.read()}
        known = self._known_accuracy(stored.values())
        found = {
            arch: self._kept(arch, known[arch], model, heldout, stored)
            for arch in self.space
            if arch in known
        }
        log.debug(
            f"{len(found)} of {len(self.space)} architectures are in {self.store.path} and are not "
            f"evaluated again"
        )
        for note in sorted({arch.rounding for arch in self.space} - {""}):
            log.info(note)
        groups = [
            [arch for arch in group if arch not in found] for group in by_backbone(self.space)
        ]
        items = [Whole(tuple(group)) for group in groups if group]
        for _, result in progress(_Sized(self.results(items), len(items))):
            for arch, accuracy in result.items():
                found[arch] = self._kept(arch, accuracy, model, heldout, stored)
        return [found[arch] for arch in self.space]

    def race(
        self,
        model: LatencyModel,
        heldout: RelativeError,
        *,
        goal: Goal = GOALS["ap"],
        rules: Rules = Rules(),
        progress: Callable[[Stage], None] = lambda stage: None,
    ) -> tuple[list[Record], Outcome]:
        """Records of the survivors of a race for the frontier, evaluated on every image; see
        :mod:`.race`.
        """
        if goal.kind == "segm" and not self.masks:
            raise InputError(
                f"a race for {goal.metric} needs mask evaluations", hint="set masks in the search"
            )
        objects = Objects.of(self.evaluation.evaluator)
        parts: dict[tuple[Arch, str], list[Matches]] = {}

        def evaluate(archs: Sequence[Arch], places: Sequence[int]) -> Mapping[Arch, Matches]:
            items = [Part(tuple(group), tuple(places)) for group in by_backbone(archs)]
            found: Parts = {}
            for _, result in self._kept_results(items):
                found.update(result)
            for arch in archs:
                for kind, matched in found[arch].items():
                    parts.setdefault((arch, kind), []).append(matched)
            return {arch: found[arch][goal.kind] for arch in archs}

        predicted = {arch: model.predict(arch) for arch in self.space}
        outcome = race(predicted, objects, evaluate, goal.thresholds, rules, progress)
        records = []
        stored = {record.id: record for record in self.store.read()}
        for arch in outcome.accuracy:
            whole = {kind: Matches.join(parts[arch, kind]) for kind in self.evaluation.kinds}
            most = self.evaluation.evaluator.max_dets
            accuracy = {kind: accuracy_of(found, objects, most) for kind, found in whole.items()}
            records.append(self._kept(arch, accuracy, model, heldout, stored))
        return records, outcome

    def _kept(
        self,
        arch: Arch,
        accuracy: Mapping[str, Accuracy],
        model: LatencyModel,
        heldout: RelativeError,
        stored: Mapping[str, Record],
    ) -> Record:
        """The Record of ``arch``, from the store if the stored Record is equal; the latency model
        may have been fitted again since.

        A stored latency of a model that was fitted to confirmed files too is kept in the store.
        Candidates are nevertheless chosen by ``model``, so that a resumed run makes the same
        choice, and :meth:`refit` writes the better latency.
        """
        record = replace(
            self.record("search", arch),
            accuracy=accuracy["bbox"],
            latency=model.latency(arch, heldout),
        )
        before = stored.get(record.id)
        record = replace(
            record, mask_accuracy=accuracy.get("segm") or (before.mask_accuracy if before else None)
        )
        if before is not None and _results(before) == _results(record):
            return before
        refitted = (
            before is not None
            and before.latency is not None
            and before.latency.confirmed_error is not None
        )
        if before is not None and refitted and _results(before)[:2] == _results(record)[:2]:
            return record
        return self.store.append(record)

    def refit(
        self,
        records: Sequence[Record],
        model: LatencyModel,
        heldout: RelativeError,
        seen: RelativeError,
    ) -> list[Record]:
        """The search's Records with latencies of a model that was fitted to confirmed files too;
        stored where they differ.

        ``seen``: error of the former model on these files.
        """
        stored = {record.id: record for record in self.store.read()}
        after = []
        changed = []
        for record in records:
            latency = replace(
                model.latency(record.as_searched().arch, heldout),
                confirmed_error=seen.median,
                confirmed_worst=seen.maximum,
            )
            after.append(replace(record, latency=latency))
            if (before := stored.get(record.id)) is None or _results(before) != _results(after[-1]):
                changed.append(after[-1])
        self.store.extend(changed)
        return after

    def _known_accuracy(self, records: Iterable[Record]) -> dict[Arch, dict[str, Accuracy]]:
        """The stored accuracy of this checkpoint on these images, if the store has every requested
        kind.
        """
        known: dict[Arch, dict[str, Accuracy]] = {}
        for record in records:
            arch = record.model.arch
            data = record.data
            if (
                record.source != "search"
                or arch is None
                or data is None
                or data.sha256 != self.split.sha256
            ):
                continue
            kinds = {"bbox": record.accuracy, "segm": record.mask_accuracy}
            as_now = all(
                (found := kinds[kind]) is not None and found.rule == AP_RULE
                for kind in self.evaluation.kinds
            )
            if record.model == self.model_id(arch) and as_now:
                known[arch] = {
                    kind: accuracy for kind, accuracy in kinds.items() if accuracy is not None
                }
        return known

    def results(self, items: Sequence[Item]) -> Iterator[tuple[Item, dict[Arch, Any]]]:
        """Yields (item, result) of work items in order of completion, by the pool if there is
        one.
        """
        if self.run_items is not None:
            yield from self.run_items(items)
        else:
            yield from ((item, self.evaluation(item)) for item in items)

    def _kept_results(self, items: Sequence[Part]) -> Iterator[tuple[Part, Parts]]:
        """Results of a race's items; each is kept in a file, so that an interrupted race can be
        resumed.
        """
        missing = [item for item in items if not self._race_file(item).exists()]
        yield from (
            (item, _read(self._race_file(item), item, self.evaluation.kinds))
            for item in items
            if item not in missing
        )
        for item, found in self.results(missing):
            path = self._race_file(item)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                columns = [
                    found[arch][kind].columns()
                    for arch in item.archs
                    for kind in self.evaluation.kinds
                ]
                np.savez(stream, *(column for row in columns for column in row))
            yield item, found

    def _race_file(self, item: Part) -> Path:
        keys = [arch.key for arch in item.archs]
        named = " ".join(
            [
                self.checkpoint_sha256,
                self.split.sha256,
                *self.evaluation.kinds,
                *keys,
                str(item.places),
            ]
        )
        return (
            self.folder.parent / "race" / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.npz"
        )


def _results(record: Record) -> tuple[Any, ...]:
    return record.accuracy, record.mask_accuracy, record.latency


class _Sized:
    """An iterator with a length, for a progress bar."""

    def __init__(self, items: Iterator[Any], length: int) -> None:
        self.items = items
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return self.items

    def __len__(self) -> int:
        return self.length


def _read(path: Path, item: Part, kinds: Sequence[str]) -> Parts:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = iter(
                [file[f"arr_{index}"] for index in range(5 * len(item.archs) * len(kinds))]
            )
            return {
                arch: {kind: Matches(*(next(columns) for _ in range(5))) for kind in kinds}
                for arch in item.archs
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "the file is not a stage of a race", path, "remove the file and run the command again"
        ) from error


def missing_classes(split: CocoSplit) -> list[str]:
    """Names of classes without objects in the split, which AP does not cover."""
    count = Objects.of(CocoEvaluator(split)).count.sum(0)
    return [
        name
        for name, number in zip(split.classes.names, count.tolist(), strict=True)
        if number == 0
    ]
