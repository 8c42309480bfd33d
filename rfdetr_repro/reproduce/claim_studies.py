"""The studies behind ``claims --run``: evaluations of given weights, and trainings with seeds.

Everything is checked before anything is spent. Each Record is appended to the store of the study as
soon as it is known, and trainings resume in their own folders, so that a study that was killed goes
on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.bench.machine import environment
from rfdetr_repro.claims.catalog import STUDIES, Study, Trained
from rfdetr_repro.claims.pairs import STUDY
from rfdetr_repro.data.coco import CocoSplit, read_split, read_splits
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.embedded.dataset import write_embedded
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.ops.device import choose_device, to_device
from rfdetr_repro.records.record import DataId, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.evaluation import by_backbone, shared_detections
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbones import stated_backbone
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO, PICO_SPACE, PICO_TRAIN, PICO_WEIGHTS
from rfdetr_repro.spec.train_config import TrainConfig, with_settings
from rfdetr_repro.train.prepare import start_of
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train

if TYPE_CHECKING:
    from rfdetr_repro.model.detector import Detector

log = logging.getLogger(__name__)

RECORDS = "records.jsonl"
SPLIT = "val"


@dataclass(frozen=True)
class StudyRequest:
    """A run of a study.

    ``folder``: folder of its data, trainings and Records, ``folder/records.jsonl``; ``data``: None
    for the embedded data set, composed in ``folder/data``; ``seeds`` and ``steps`` are those of the
    trainings, ``steps`` None for those of the pico recipe.
    """

    study: Study
    folder: Path
    data: DataSource | None = None
    seeds: int = 3
    steps: int | None = None
    device: str | None = None
    processes: int | None = None
    command: str | None = None
    space: SearchSpace = PICO_SPACE

    @property
    def store(self) -> Store:
        """The store of the Records."""
        return Store(self.folder / RECORDS)

    def recipe(self, side: Trained, seed: int) -> TrainConfig:
        """The settings of a training. Raises :class:`InputError` for a setting out of range."""
        steps = PICO_TRAIN.steps if self.steps is None else self.steps
        config = replace(PICO_TRAIN, steps=steps, seed=seed, evaluate_every=0, patience=0)
        return with_settings(config, side.settings)


def study_named(name: str) -> Study:
    """The study with this id. Raises :class:`InputError` for an unknown id."""
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}", "--run", f"choose one of {', '.join(STUDIES)}")
    return STUDIES[name]


def run_study(request: StudyRequest) -> list[Record]:
    """Runs what is not done yet; returns the Records of the study.

    Raises :class:`InputError` for bad input before anything is trained or evaluated, and where
    another process writes the store.
    """
    for side in request.study.trained:
        Recipe(PICO, request.recipe(side, 0), request.space if side.shared else None).check()
    request.folder.mkdir(parents=True, exist_ok=True)
    with request.store.exclusive():
        request.store.read()  # a file that holds anything else is refused here
        if request.study.trained:
            return list(_trainings(request, _data(request, ("train", SPLIT))))
        return _given_weights(request, _data(request, (SPLIT,)))


def _data(request: StudyRequest, splits: Sequence[str]) -> DataSource:
    """The data of the request, or those splits of the embedded data set, which are composed."""
    if request.data is not None:
        return request.data
    folder = request.folder / "data"
    log.info(f"composing {' and '.join(splits)} of the embedded data set in {folder}")
    return DataSource.of(write_embedded(folder, splits=splits))


def _given_weights(request: StudyRequest, source: DataSource) -> list[Record]:
    detector, card, sha256 = load_supernet(PICO_WEIGHTS)
    split = read_split(source, SPLIT, ClassMap(card.category_ids, card.class_names))
    detector = to_device(detector, str(choose_device(request.device)))
    wanted = _Wanted(request, card, sha256, split, "rfdetr-{key}", None, None)
    return evaluate(wanted, detector, list(request.space))


def _trainings(request: StudyRequest, source: DataSource) -> Iterator[Record]:
    splits = read_splits(source)
    if SPLIT not in splits:
        raise InputError("the sides are compared on a val split", source, "add a val split")
    device = choose_device(request.device)
    for seed in range(request.seeds):
        for side in request.study.trained:
            config = request.recipe(side, seed)
            start = start_of(PICO, splits["train"], None)
            space = request.space if side.shared else None
            name = f"{side.variant.replace(' ', '-')}-{seed}"
            run = train(
                TrainRequest(
                    recipe=Recipe(start.preset, config, space),
                    split=splits["train"],
                    folder=request.folder / name,
                    initial=start.initial,
                    device=device,
                    processes=request.processes,
                )
            )
            detector, card, sha256 = load_supernet(run.model)
            told = f"rfdetr-{{key}}, {config.steps} steps"
            wanted = _Wanted(request, card, sha256, splits[SPLIT], told, side.variant, seed)
            archs = [card.arch] if space is None else _around(card.arch, space)
            yield from evaluate(wanted, to_device(detector, str(device)), archs)
            log.info(f"{side.variant}, seed {seed}: trained and evaluated")


def _around(base: Arch, space: SearchSpace) -> list[Arch]:
    """The base architecture, and those of the space with its resolution and patch."""
    near = [
        arch for arch in space if (arch.resolution, arch.patch) == (base.resolution, base.patch)
    ]
    return list(dict.fromkeys([base, *near]))


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
            started_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.request.command,
            seed=self.seed,
            env=self.env,
        )


def evaluate(wanted: _Wanted, detector: Detector, archs: Sequence[Arch]) -> list[Record]:
    """A Record of each architecture with the AP of its boxes, resampled; stored Records are not
    computed again.
    """
    store = wanted.request.store
    done = {record.id: record for record in store.read()}
    requests = {arch: wanted.record(arch) for arch in archs}
    open_archs = [arch for arch in archs if requests[arch].id not in done]
    evaluator = CocoEvaluator(wanted.split)
    groups = list(by_backbone(open_archs))
    for number, group in enumerate(groups, 1):
        found = shared_detections(detector, wanted.split, group, masks=False)
        records = [
            replace(requests[arch], accuracy=measured(evaluator, found[arch])) for arch in group
        ]
        store.extend(records)
        done |= {record.id: record for record in records}
        log.info(f"backbone {number} of {len(groups)} evaluated")
    return [done[requests[arch].id] for arch in archs]
