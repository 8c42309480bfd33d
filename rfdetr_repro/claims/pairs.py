"""Which Records a comparison sets against each other: pairs that differ in one thing only.

Each kind of comparison is a frozen description with a method ``pairs``, which finds the pairs among
any Records. A Record takes part in a pair only if data set, split and annotations are the same on
both sides. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from rfdetr_repro.records.record import NEVER_TRAINED, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.tables.family import alike

STUDY = "claims"  # source and campaign of the Records that the studies of this package write
SHARED = "trained in the supernet"  # variant of a supernet that a study trained
_EVALUATED = ("search", "protocol", STUDY)


class Scale(NamedTuple):
    """The data that a comparison was made on."""

    data: str
    split: str
    images: int | None
    synthetic: bool
    training: str = ""  # steps, and of a study that trains what they start from
    against: str = ""  # the rival, where the comparison has several

    @classmethod
    def of(cls, record: Record) -> Scale:
        """The scale of a Record."""
        data = record.data
        if data is None:
            return cls("", "", None, False)
        training = record.model.name.partition(", ")[2] if record.source == STUDY else ""
        if record.budget is not None:
            training = record.budget.words
        return cls(data.name, data.split, data.num_images, data.synthetic, training)

    @property
    def words(self) -> str:
        """Like "embedded val, 150 synthetic images", after the rival."""
        kind = "synthetic images" if self.synthetic else "images"
        count = "" if self.images is None else f", {self.images:,} {kind}"
        training = f"; {self.training}" if self.training else ""
        against = f"{self.against}; " if self.against else ""
        return against + f"{self.data} {self.split}".strip() + count + training


class Pair(NamedTuple):
    """Two Records that differ in one thing: the effect is the second minus the first.

    ``base``: another pair, whose effect is subtracted from the effect of this pair.
    """

    first: Record
    second: Record
    base: tuple[Record, Record] | None = None

    @property
    def scale(self) -> Scale:
        """The data of the pair."""
        return Scale.of(self.second)

    @property
    def seed(self) -> int | None:
        """Seed of the training; None where the Records do not state one seed for both."""
        seeds = {record.seed for record in (self.first, self.second, *(self.base or ()))}
        return self.second.seed if len(seeds) == 1 else None

    @property
    def gain(self) -> float:
        """The effect in points of AP. Raises :class:`InputError` for a Record without an AP."""
        before = 0.0 if self.base is None else Pair(*self.base).gain
        return 100 * (self.second.as_accuracy().ap - self.first.as_accuracy().ap) - before


class Pairing(Protocol):
    """A description of pairs."""

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """The pairs among ``records``."""
        ...


@dataclass(frozen=True)
class Side:
    """What Records one side of a comparison consists of; an empty tuple allows everything."""

    words: str
    campaigns: tuple[str, ...] = ()
    variants: tuple[str | None, ...] = ()
    backbones: tuple[str | None, ...] = ()
    modes: tuple[str, ...] = ()  # of the protocol
    start: str = ""  # what the trainings of a study started from, in the words that Records use

    def has(self, record: Record) -> bool:
        """Whether the Record belongs to this side."""
        mode = record.protocol.mode if record.protocol else ""
        return (
            _allowed(record.campaign, self.campaigns)
            and _allowed(record.model.variant, self.variants)
            and _allowed(record.model.backbone, self.backbones)
            and _allowed(mode, self.modes)
            and self.start in record.model.name
        )


@dataclass(frozen=True)
class Sides:
    """Two sides whose Records have an AP and are paired by architecture and seed.

    ``arch``: only pairs of this architecture; None: of every architecture.
    """

    first: Side
    second: Side
    arch: Arch | None = None

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """One pair per architecture, data and seed that both sides have."""
        scored = [
            record
            for record in records
            if _scored(record) and self.arch in (None, record.model.arch)
        ]
        return _paired(scored, self.first.has, self.second.has, _by_architecture)


@dataclass(frozen=True)
class AnyOf:
    """The pairs of several descriptions."""

    descriptions: tuple[Pairing, ...]

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """All pairs, in the order of the descriptions."""
        return [pair for one in self.descriptions for pair in one.pairs(records)]


@dataclass(frozen=True)
class SameFile:
    """Two protocols, each applied to the same files on the same machine."""

    first: Side
    second: Side

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """One pair per file, runtime and machine that both sides have."""
        timed = [
            record
            for record in records
            if record.source == "protocol"
            and record.artifact is not None
            and record.latency is not None
            and record.latency.method == "measured"
            and not (record.protocol is not None and record.protocol.quick)
        ]
        return _paired(timed, self.first.has, self.second.has, _by_file)


@dataclass(frozen=True)
class KnobStep:
    """A knob turned down by one step, all else equal, in the same weights.

    ``largest``: only the step from the largest value that the weights were evaluated with.
    ``variants``: which trainings; None stands for a supernet outside of the studies.
    """

    knob: str
    largest: bool = False
    variants: tuple[str | None, ...] = (None, SHARED)

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """Pairs of neighbouring values: first the larger value, then the smaller value."""
        groups: dict[Hashable, dict[int, Record]] = {}
        for record in _resampled_last(self._chosen(records)):
            arch = record.model.arch
            if arch is not None:
                knobs = arch.knobs()
                value = knobs.pop(self.knob)
                key = (*_by_weights(record), tuple(knobs.items()))
                groups.setdefault(key, {})[value] = record
        found = []
        for group in groups.values():
            steps = list(pairwise(sorted(group, reverse=True)))
            found += [Pair(group[high], group[low]) for high, low in steps]
        if not self.largest:
            return found
        top = max((_knob(pair.first, self.knob) for pair in found), default=0)
        return [pair for pair in found if _knob(pair.first, self.knob) == top]

    def _chosen(self, records: Sequence[Record]) -> Iterable[Record]:
        return (
            record
            for record in records
            if record.source in _EVALUATED
            and record.model.variant in self.variants
            and _scored(record)
        )


@dataclass(frozen=True)
class StepAgainst:
    """The largest step of a knob after two trainings of equal seeds: its effect after the second
    training, minus its effect after the first.
    """

    knob: str
    first: str  # variants
    second: str

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """One pair per seed and setting of the other knobs that both trainings have."""
        sides = [
            {_by_step(pair): pair for pair in step.pairs(records)}
            for step in (
                KnobStep(self.knob, largest=True, variants=(variant,))
                for variant in (self.first, self.second)
            )
        ]
        return [
            Pair(*pair[:2], base=sides[0][key][:2])
            for key, pair in sides[1].items()
            if key in sides[0]
        ]


@dataclass(frozen=True)
class SameTokens:
    """Patch sizes that training never drew, against trained ones with as many tokens."""

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """One pair per architecture that was never drawn and has a trained equivalent."""
        scored = _resampled_last(filter(_scored, records))
        fresh: dict[Hashable, dict[Hashable, Record]] = {}
        known: dict[Hashable, dict[Hashable, Record]] = {}
        for record in scored:
            if record.model.arch is None or record.source not in _EVALUATED:
                continue
            if record.model.variant == NEVER_TRAINED:
                fresh.setdefault(_by_weights(record), {})[record.model.arch] = record
            elif _of_searched_weights(record):
                known.setdefault(_by_weights(record), {})[record.model.arch] = record
        return [
            Pair(like, record)
            for group, records_of in fresh.items()
            for record, like in alike(
                list(records_of.values()), list(known.get(group, {}).values())
            )
            if like is not None
        ]


def _allowed(value: object, allowed: tuple[object, ...]) -> bool:
    return not allowed or value in allowed


def _scored(record: Record) -> bool:
    return (
        record.published is None
        and record.data is not None
        and record.accuracy is not None
        and record.accuracy.ap is not None
    )


def _by_step(pair: Pair) -> Hashable:
    return _by_architecture(pair.first), _by_architecture(pair.second)


def _of_searched_weights(record: Record) -> bool:
    searched = record.source in _EVALUATED and record.model.variant in (None, SHARED)
    return searched and _scored(record)


def has_resamples(record: Record) -> bool:
    """Whether the Record keeps the box AP of each resample of the images."""
    accuracy = record.accuracy
    return accuracy is not None and accuracy.resampled is not None and bool(accuracy.resampled.aps)


def _resampled_last(records: Iterable[Record]) -> list[Record]:
    """Records whose AP was resampled come last, so that they replace others of the same key."""
    return sorted(records, key=has_resamples)


def _data(record: Record) -> tuple[object, ...]:
    data = record.data
    return () if data is None else (data.name, data.split, data.sha256)


def _by_weights(record: Record) -> tuple[object, ...]:
    return _data(record), record.model.checkpoint_sha256, record.model.task, record.seed


def _by_architecture(record: Record) -> Hashable:
    # studies name the number of steps, which both sides must share
    name = record.model.name if record.source == STUDY else ""
    return _data(record), record.model.arch, record.model.task, record.seed, name


def _by_file(record: Record) -> Hashable:
    artifact = record.artifact
    machine = record.machine
    protocol = record.protocol
    return (
        artifact and (artifact.sha256, artifact.runtime, artifact.precision, artifact.options),
        machine and (machine.cpu, machine.gpu),
        protocol and (protocol.scope, protocol.threads, protocol.batch),
    )


def _paired(
    records: Iterable[Record],
    first: Callable[[Record], bool],
    second: Callable[[Record], bool],
    key: Callable[[Record], Hashable],
) -> list[Pair]:
    sides: tuple[dict[Hashable, Record], dict[Hashable, Record]] = ({}, {})
    for record in _resampled_last(records):
        for has, side in zip((first, second), sides, strict=True):
            if has(record):
                side[key(record)] = record
    return [Pair(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]


def _knob(record: Record, knob: str) -> int:
    arch = record.model.arch
    return 0 if arch is None else arch.knobs()[knob]
