"""The studies behind ``claims --run``: evaluations of given weights, and trainings with seeds.

Everything is checked before anything is spent. A training whose Records are known, from this folder
or from any other store, is not repeated. Each Record is appended to the store of the study as
soon as it is known, and trainings resume in their own folders, so that a study that was killed goes
on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.bench.machine import environment
from rfdetr_repro.claims.pairs import STUDY
from rfdetr_repro.claims.studies import BACKBONE, DOMAIN, PRETRAINED, STEPS, UNRANKED, Study
from rfdetr_repro.data.coco import CocoSplit, read_split, read_splits
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.domains.dataset import DomainConfig, write_domain
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.model.selection import Selected
from rfdetr_repro.ops.device import choose_device, to_device
from rfdetr_repro.records.record import NEVER_TRAINED, DataId, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.evaluation import by_backbone, shared_detections
from rfdetr_repro.search.family import between, never_trained
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbones import stated_backbone
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.spec.presets import PICO_SPACE, PICO_WEIGHTS
from rfdetr_repro.train.run import train

from .claim_trainings import (
    Prepared,
    Scale,
    detections,
    initial_after,
    prepared,
)

if TYPE_CHECKING:
    from rfdetr_repro.model.detector import Detector

log = logging.getLogger(__name__)

RECORDS = "records.jsonl"
SPLIT = "val"
PRETRAINING = "pretraining"  # the split on which backbones are pretrained
Detect = Callable[[Sequence[Arch]], dict[Arch, list[ImageDetections]]]


@dataclass(frozen=True)
class Given:
    """The weights of the package."""

    detector: Detector
    card: ModelCard
    sha256: str

    @property
    def classes(self) -> ClassMap:
        """The classes that they detect."""
        return ClassMap(self.card.category_ids, self.card.class_names)


@dataclass(frozen=True)
class StudyRequest:
    """A run of a study.

    ``folder``: folder of its data, trainings and Records, ``folder/records.jsonl``; ``data``: None
    for a data set of the package, composed in ``folder/data``; ``seeds``, ``steps`` and ``start``
    (of :data:`~rfdetr_repro.claims.studies.STARTS`) are those of the trainings. ``known``: Records
    of earlier runs, whose sides are not trained or evaluated again.
    """

    study: Study
    folder: Path
    data: DataSource | None = None
    seeds: int = 3
    steps: int = STEPS
    device: str | None = None
    processes: int | None = None
    command: str | None = None
    space: SearchSpace = PICO_SPACE
    start: str = BACKBONE
    known: Sequence[Record] = field(default=(), repr=False)
    # of the data set that is composed for trainings; None: its own numbers
    images: DomainConfig | None = None
    # of the embedded data set, on whose train split backbones are pretrained; None: its own numbers
    pretraining_images: EmbeddedConfig | None = None

    @property
    def store(self) -> Store:
        """The store of the Records."""
        return Store(self.folder / RECORDS)

    @property
    def scale(self) -> Scale:
        """The scale of the trainings."""
        return Scale(self.steps, self.start, self.space)

    @cached_property
    def stored(self) -> dict[str, Record]:
        """Id -> Record, of the known Records and of those in the store."""
        return {record.id: record for record in (*self.known, *self.store.read())}

    @cached_property
    def given(self) -> Given:
        """The weights of a study that trains nothing."""
        return Given(*load_supernet(PICO_WEIGHTS))


def run_study(request: StudyRequest, splits: Mapping[str, CocoSplit] | None = None) -> list[Record]:
    """Runs what is not done yet; returns the Records of the study, known ones included. ``splits``:
    what :func:`read_data` returned; None to read and check the study here.

    Raises :class:`InputError` for bad input before anything is trained or evaluated, and where
    another process writes the store.
    """
    if splits is None:
        splits = read_data(request)
        check_study(request, splits)
    with request.store.exclusive():
        if request.study.trained:
            return list(_trainings(request, splits))
        return _given_weights(request, splits[SPLIT])


def check_study(request: StudyRequest, splits: Mapping[str, CocoSplit]) -> None:
    """Raises :class:`InputError` for a device that is absent, for a store that holds anything other
    than Records, and for a training that cannot start on ``splits``. Nothing is trained or
    evaluated.
    """
    device = choose_device(request.device)
    request.store.read()
    for side in request.study.trained:
        ready = prepared(request.scale, side, 0, splits["train"], splits.get(PRETRAINING))
        for one in (ready, *ready.earlier()):
            one.request(request.folder, device, request.processes)


def read_data(request: StudyRequest) -> dict[str, CocoSplit]:
    """The train and the val split of the trainings, and the split on which backbones are
    pretrained, if they are; of a study of given weights, the val split alone. Data of the package
    are composed. Raises :class:`InputError` for data without a val split.
    """
    if not request.study.trained:
        return {SPLIT: read_split(_embedded(request), SPLIT, request.given.classes)}
    source = request.data
    if source is None:
        folder = request.folder / "data" / DOMAIN
        log.info(f"composing the data set {DOMAIN} of embedded-10 in {folder}")
        source = DataSource.of(write_domain(folder, DOMAIN, request.images))
    splits = read_splits(source)
    if SPLIT not in splits:
        raise InputError("trainings are compared on a val split", source, "add a val split")
    found = {"train": splits["train"], SPLIT: splits[SPLIT]}
    if request.start == PRETRAINED:
        folder = request.folder / "data" / "pretraining"
        log.info(f"composing the train split of the embedded data set in {folder}")
        composed = write_embedded(folder, request.pretraining_images, splits=("train",))
        found[PRETRAINING] = read_split(DataSource.of(composed), "train")
    return found


def _embedded(request: StudyRequest) -> DataSource:
    """The data of the request, or the val split of the embedded data set, which is composed."""
    if request.data is not None:
        return request.data
    folder = request.folder / "data" / "embedded"
    log.info(f"composing {SPLIT} of the embedded data set in {folder}")
    return DataSource.of(write_embedded(folder, splits=(SPLIT,)))


def _given_weights(request: StudyRequest, split: CocoSplit) -> list[Record]:
    detector = to_device(request.given.detector, str(choose_device(request.device)))
    most = max(request.space.queries)

    def detect(group: Sequence[Arch]) -> dict[Arch, list[ImageDetections]]:
        chosen = detector
        if request.study.unranked:
            chosen = with_mixed_queries(detector, most, mixing(group[0], most))
        return shared_detections(chosen, split, group, masks=False)

    return [
        record
        for wanted, archs in _of_given(request, split)
        for record in evaluate(wanted, detect, archs)
    ]


def left_of_given(request: StudyRequest, split: CocoSplit) -> list[Arch]:
    """The configurations that a study of given weights has yet to evaluate on ``split``."""
    return [
        arch
        for wanted, archs in _of_given(request, split)
        for arch in archs
        if wanted.record(arch).id not in request.stored
    ]


def _of_given(request: StudyRequest, split: CocoSplit) -> list[tuple[_Wanted, list[Arch]]]:
    """What a study of given weights evaluates: every configuration of the space, and patch sizes
    that training never drew; or the configurations whose queries can be dropped at random.
    """
    given = request.given
    space = request.space
    wanted = _Wanted(request, given.card, given.sha256, split, "rfdetr-{key}", None, None)
    if not request.study.unranked:
        never_drawn = replace(wanted, variant=NEVER_TRAINED)
        return [(wanted, list(space)), (never_drawn, never_trained(space, between(space)))]
    most = max(space.queries)
    fewer = [arch for arch in space if arch.queries < most <= arch.tokens and arch.decoder_layers]
    return [(replace(wanted, variant=UNRANKED), fewer)]


def mixing(arch: Arch, queries: int) -> list[int]:
    """A random order of the queries, another one for each backbone of the space."""
    rng = np.random.default_rng((*arch.backbone, queries))
    return [int(place) for place in rng.permutation(queries)]


def with_mixed_queries(detector: Detector, queries: int, order: Sequence[int]) -> Detector:
    """A copy of the detector whose queries come in another order: the ``queries`` most confident
    are chosen as before, and each keeps its own embeddings, but the first k of them are then any k
    instead of the k most confident.

    ``order``: a permutation of ``range(queries)``. With all ``queries`` the copy predicts the same.
    Images need as many patches as there are queries.
    """
    mixed = deepcopy(detector)
    chosen = torch.tensor(order, device=mixed.decoder.query_feat.device)
    with torch.no_grad():
        for table in (mixed.decoder.query_feat, mixed.decoder.refpoint_embed):
            table[:queries] = table[chosen]
    select = mixed.selection.forward

    def reordered(
        memory: Tensor,
        level_sizes: list[tuple[int, int]],
        groups: int,
        fewer: int,
        tokens: Tensor | None = None,
    ) -> Selected:
        found = select(memory, level_sizes, groups, queries, tokens)
        return Selected(*(part[:, :, chosen] for part in found))

    mixed.selection.forward = reordered  # type: ignore
    return mixed


def _trainings(request: StudyRequest, splits: Mapping[str, CocoSplit]) -> Iterator[Record]:
    for seed in range(request.seeds):
        for side in request.study.trained:
            ready = prepared(request.scale, side, seed, splits["train"], splits.get(PRETRAINING))
            known = stored_records(request, ready, splits[SPLIT])
            if known is not None:
                log.info(f"{side.words}, seed {seed}: {plural(len(known), 'stored Record')}")
                yield from known
                continue
            yield from _trained(request, ready, splits[SPLIT])
            log.info(f"{side.words}, seed {seed}: trained and evaluated")


def stored_records(request: StudyRequest, ready: Prepared, split: CocoSplit) -> list[Record] | None:
    """The known Records of a training on ``split``, all of the same file of weights; None if no
    file has all of them.
    """
    scale = request.scale
    archs = scale.evaluated(ready.side, ready.recipe.preset.arch) + scale.never_drawn(ready.side)
    found: dict[str | None, dict[Arch | None, Record]] = {}
    for record in request.stored.values():
        if (
            record.source == STUDY
            and record.training_sha256 == ready.sha256
            # comparisons pair equal names, which state what the other sides started from
            and record.model.name.endswith(scale.words)
            and record.data is not None
            and record.data.sha256 == split.sha256
        ):
            weights = record.model.checkpoint_sha256
            found.setdefault(weights, {})[record.model.arch] = record
    for records in found.values():
        if records.keys() >= set(archs):
            return [records[arch] for arch in archs]
    return None


def _started(request: StudyRequest, ready: Prepared, device: torch.device) -> Prepared:
    """``ready`` with its initial weights; trains what has to be trained before."""
    if ready.pretraining is None:
        return ready
    log.info(f"{ready.pretraining.side.variant} for {ready.side.words}")
    before = _started(request, ready.pretraining, device)
    run = train(before.request(request.folder, device, request.processes))
    return replace(ready, initial=initial_after(ready, run.model))


def _trained(request: StudyRequest, ready: Prepared, split: CocoSplit) -> list[Record]:
    """Trains and evaluates a side."""
    device = choose_device(request.device)
    ready = _started(request, ready, device)
    run = train(ready.request(request.folder, device, request.processes))
    trained, card, sha256 = load_supernet(run.model)
    detector = to_device(trained, str(device))
    side = ready.side
    told = f"rfdetr-{{key}}, {request.scale.words}"
    wanted = _Wanted(
        request, card, sha256, split, told, side.variant, ready.recipe.train.seed, ready.sha256
    )

    def detect(group: Sequence[Arch]) -> dict[Arch, list[ImageDetections]]:
        return detections(detector, split, group, side.padded)

    records = evaluate(wanted, detect, request.scale.evaluated(side, card.arch))
    never_drawn = replace(wanted, variant=NEVER_TRAINED)
    return records + evaluate(never_drawn, detect, request.scale.never_drawn(side))


@dataclass(frozen=True)
class _Wanted:
    """What the Records of one file of weights have in common; ``name`` has a place for the key of
    the architecture.
    """

    request: StudyRequest
    card: ModelCard
    sha256: str
    split: CocoSplit
    name: str
    variant: str | None
    seed: int | None
    training_sha256: str | None = None
    env: dict[str, str] = field(default_factory=environment)

    def record(self, arch: Arch) -> Record:
        """The request for an accuracy, without results."""
        split = self.split
        return Record(
            STUDY,
            ModelId(
                "rfdetr",
                self.name.format(key=arch.key),
                "segment" if self.card.config.masks else "detect",
                variant=self.variant,
                arch=arch,
                checkpoint_sha256=self.sha256,
                backbone=stated_backbone(self.card.config),
                trained_in=self.card.precision,
            ),
            data=DataId(split.name, split.split, split.sha256, len(split)),
            campaign=STUDY,
            started_at=utc_now(),
            command=self.request.command,
            seed=self.seed,
            env=self.env,
            training_sha256=self.training_sha256,
        )


def evaluate(wanted: _Wanted, detect: Detect, archs: Sequence[Arch]) -> list[Record]:
    """A Record of each architecture with the AP of its boxes, resampled; known Records are not
    computed again.
    """
    store = wanted.request.store
    done = {**wanted.request.stored, **{record.id: record for record in store.read()}}
    requests = {arch: wanted.record(arch) for arch in archs}
    open_archs = [arch for arch in archs if requests[arch].id not in done]
    evaluator = CocoEvaluator(wanted.split)
    groups = list(by_backbone(open_archs))
    for number, group in enumerate(groups, 1):
        found = detect(group)
        records = [
            replace(requests[arch], accuracy=measured(evaluator, found[arch])) for arch in group
        ]
        store.extend(records)
        done |= {record.id: record for record in records}
        log.info(f"backbone {number} of {len(groups)} evaluated")
    return [done[requests[arch].id] for arch in archs]
