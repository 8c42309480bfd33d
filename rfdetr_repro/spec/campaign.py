"""A campaign: all settings of one run of the whole flow, by name or from a TOML file. No torch
here.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .arch import SearchSpace
from .backbones import backbone_named, space_for, with_backbone
from .errors import InputError, nearest
from .files import read_input
from .presets import (
    PAPER_SPACE,
    PAPER_SUPERNET,
    PICO,
    PICO_SPACE,
    PICO_TRAIN,
    PICO_TUNE,
    PICO_WEIGHTS,
    Preset,
    preset,
)
from .protocol import MODES, QUANTILES, Protocol, check_deployment
from .ranges import check_ranges, choose, is_text, plain_name
from .train_config import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

METRICS = ("ap", "ap50", "mask_ap", "mask_ap50")  # what a search may maximise
# lowest and highest number; fewer than 6 engines do not fit the latency model
ENGINES = (6, 10**5)
CANDIDATES = (1, 10**5)
MOST_BYTES = 1 << 20  # of a campaign's file
FINETUNE_STEPS = 300  # of one found architecture, unless stated


@dataclass(frozen=True)
class Pretraining:
    """A training stage before the campaign's own, on other data: ``data`` is a COCO-format folder,
    with masks where the preset has masks.
    """

    data: Path
    train: TrainConfig


@dataclass(frozen=True)
class Campaign:
    """All settings of one run of the whole flow.

    ``data`` is a data set in any known form, or None for the embedded data set, which is composed
    into the run folder. Raises :class:`InputError` for settings that cannot work.
    """

    name: str
    title: str
    preset: Preset
    space: SearchSpace
    train: TrainConfig
    data: os.PathLike[str] | None = None  # a path, or a DataSource of `data.source`
    weights: Path | None = None  # what training, or the stage before it, starts from; None: random
    pretraining: Pretraining | None = None
    scratch: TrainConfig | None = None  # the recipe from random weights; None: `train`
    data_seed: int = 0
    # departures from the paper that do not follow from the settings (departures.py); printed in the
    # report
    departures: tuple[str, ...] = ()
    engines: int = 18  # exported and measured to fit and to test the latency model
    # upper limit while the latency model's cross-validation error is too large; None: twice
    # `engines`
    most_engines: int | None = None
    candidates: int = 10  # frontier points that get the full protocol
    strategy: str = "exhaustive"  # or "race"
    metric: str = "ap"  # what the search maximises: ap, ap50, mask_ap, mask_ap50
    targets_ms: tuple[float, ...] = ()  # target latencies; empty: the frontier
    # a ceiling for the latency of one image, in ms, and the statistic that has to stay below it
    budget_ms: float | None = None
    quantile: str = "median"
    # fine-tuning of the best confirmed architecture after the search; 0: none, and no evaluation of
    # patch sizes beyond the space
    finetune_steps: int = 0
    # fine-tuning of every confirmed architecture instead, each with so many steps
    finetune_front: bool = False
    backend: str = "onnxruntime"  # what the found models will run on
    precision: str = "fp32"  # that they are computed in
    cuda_graph: bool = False  # torch-graph replays a CUDA graph in any case
    # leave out unusable rows of the data, and print how many, instead of refusing the data
    drop_bad: bool = False
    # resolutions, queries, mask maps and proposals by the train split (spec/sizing.py), in place of
    # those of `preset` and `space`
    follow_data: bool = False
    # object queries of the model, and the most of the space; 0: by preset, space and data
    queries: int = 0
    # time in s that steps, engines and candidates are planned for; 0: their numbers are as given,
    # or planned for 20 minutes where the campaign follows its data
    time_budget_s: float = 0.0
    # "buffered" or "sustained": engines, choices, targets and fronts all use this mode
    latency_mode: str = "buffered"
    # mask AP of every configuration too; confirmed points always have mask AP
    search_masks: bool = False
    # Sessions of one file differ by half a percent and more, which one session cannot show. Two
    # sessions of 32 samples take the time of one of 64. In the 5 s of a sustained session, a model
    # of 150 ms gives the 32 samples that an interval needs.
    buffered: Protocol = Protocol(
        mode="buffered", min_samples=32, max_samples=32, builds=2, threads=1
    )
    sustained: Protocol = Protocol(
        mode="sustained",
        buffer_ms=0.0,
        min_samples=64,
        max_samples=232,
        timeout_s=5.0,
        builds=3,
        threads=1,
    )

    def __post_init__(self) -> None:
        plain_name(self.name, "the campaign's name")
        choose(self.strategy, ("exhaustive", "race"), "strategy")
        choose(self.metric, METRICS, "metric")
        choose(self.latency_mode, MODES, "latency_mode")
        for mode in MODES:
            if (found := getattr(self, mode)).mode != mode or not found.usual:
                raise InputError(
                    f"[{mode}] sets {found.rhythm}", "the campaign", f"leave its mode at {mode}"
                )
        check_deployment(self.backend, self.precision, self.cuda_graph, "the campaign")
        check_ranges(
            self,
            {"engines": ENGINES, "candidates": CANDIDATES, "finetune_steps": (0, 10**9)},
            {},
            "the campaign",
        )
        check_ranges(
            self,
            {"data_seed": (0, 2**63 - 1), "queries": (0, 10_000)},
            {"time_budget_s": (0, 1e9)},
            "the campaign",
        )
        if self.most_engines is not None:
            check_ranges(self, {"most_engines": ENGINES}, {}, "the campaign")
        if self.most_engines is not None and self.most_engines < self.engines:
            message = f"most_engines = {self.most_engines} is less than engines = {self.engines}"
            raise InputError(
                message,
                "the campaign",
                "raise most_engines, or leave most_engines out for twice the engines",
            )
        self._check_latencies()
        self._check_texts()
        self._check_front()
        self._check_model()

    def _check_latencies(self) -> None:
        """Raises :class:`InputError` for a ceiling or targets that no latency can meet."""
        choose(self.quantile, QUANTILES, "quantile")
        if self.budget_ms is not None:
            _check_ms(self.budget_ms, "budget_ms", "write budget_ms = 8.0")
            if self.targets_ms:
                raise InputError("budget_ms and targets_ms", hint="give one of them")
        for target in self.targets_ms:
            _check_ms(target, "target latency", "write targets_ms = [2.3]")
        if len(set(self.targets_ms)) != len(self.targets_ms):
            raise InputError(
                "targets_ms names a latency twice", "the campaign", "leave one of the two out"
            )

    def _check_texts(self) -> None:
        """Raises :class:`InputError` for a text that the report cannot print."""
        if not is_text(self.title):
            raise InputError(
                f"title = {self.title!r} is not a text of printable characters",
                "the campaign",
                'write title = "Search on my images"',
            )
        if not all(map(is_text, self.departures)):
            raise InputError(
                "departures has a value that is not a text of printable characters",
                "the campaign",
                'write departures = ["no augmentation"]',
            )

    def _check_front(self) -> None:
        """Raises :class:`InputError` for a fine-tuning of the front without steps."""
        if self.finetune_front and not self.finetune_steps:
            raise InputError(
                "finetune_front with finetune_steps = 0",
                "the campaign",
                f"write finetune_steps = {FINETUNE_STEPS}",
            )

    def _check_model(self) -> None:
        """Raises :class:`InputError` where the model lacks what the space or the metric needs."""
        stored = self.preset.model
        layers = max(self.space.decoder_layers)
        queries = max(self.space.queries)
        if layers > stored.decoder_layers or queries > stored.queries:
            raise InputError(
                f"the space needs {layers} decoder layers and {queries} queries",
                "the campaign",
                f"the model stores {stored.decoder_layers} layers and {stored.queries} queries",
            )
        if self.metric.startswith("mask") and not stored.masks:
            raise InputError(
                f"metric {self.metric} of a model without masks",
                "the campaign",
                "choose ap, or a size with masks",
            )

    @property
    def decision(self) -> Protocol:
        """The protocol whose latencies decide everything. The other protocol is measured too and
        decides nothing.
        """
        return self.buffered if self.latency_mode == "buffered" else self.sustained

    @property
    def protocols(self) -> tuple[Protocol, Protocol]:
        """The two protocols that a confirmed file is measured by, the deciding protocol first."""
        return (
            (self.buffered, self.sustained)
            if self.latency_mode == "buffered"
            else (self.sustained, self.buffered)
        )


EMBEDDED = Campaign(
    "embedded",
    "Weight-sharing search on the embedded synthetic set",
    PICO,
    PICO_SPACE,
    PICO_TUNE,
    weights=PICO_WEIGHTS,
    scratch=PICO_TRAIN,
    finetune_steps=FINETUNE_STEPS,
)
COCO = Campaign(
    "coco",
    "Weight-sharing search at the paper's size",
    PAPER_SUPERNET,
    PAPER_SPACE,
    # 100 epochs of 118k images at batch 128; the paper states no number
    TrainConfig(steps=92_400, batch_size=16, accumulate=8),
    data=Path("data/coco"),
    departures=("epochs on COCO are not published: 100 are assumed",),
    engines=120,
    most_engines=600,
    strategy="race",
    candidates=20,
    buffered=Protocol(mode="buffered", min_samples=200, max_samples=200, builds=3, threads=1),
)
CAMPAIGNS = {"embedded": EMBEDDED, "coco": COCO}


def campaign(name: str) -> Campaign:
    """The campaign called ``name``, or read from the TOML file ``name``.

    Raises :class:`InputError` for an unknown name or an unusable file.
    """
    if name in CAMPAIGNS:
        return CAMPAIGNS[name]
    if name.endswith(".toml"):
        return from_toml(Path(name))
    raise InputError(
        f"unknown campaign {name!r}",
        hint=f"choose one of {', '.join(CAMPAIGNS)}, or give a .toml file",
    )


def from_scratch(chosen: Campaign) -> Campaign:
    """The same campaign from random weights, with the recipe for random weights."""
    if chosen.scratch is None:
        return replace(chosen, weights=None)
    return replace(chosen, weights=None, train=chosen.scratch)


def from_toml(path: Path) -> Campaign:
    """Reads a campaign from a TOML file.

    ``base`` names the campaign that the file changes (default: embedded). ``backbone`` names a
    backbone of :mod:`.backbones` in place of the size's own; it starts from random weights unless
    ``weights`` are given. Every other key is a field of :class:`Campaign` or ``size``, and the
    tables [space], [train], [buffered] and [sustained] change parts of the base. The table
    [pretraining] holds ``data`` and what [train] takes. Absent keys come from the base. Raises
    :class:`InputError` for unknown keys.
    """
    fields = _toml(path)
    base = CAMPAIGNS[choose(fields.pop("base", "embedded"), CAMPAIGNS, "base campaign", path)]
    _check_kinds(fields, path)
    backbone = fields.pop("backbone", None)
    # keys that the base's own departures describe
    described = {"data", "train", "size", "pretraining"} & set(fields) or backbone
    changes: dict[str, Any] = {
        "name": plain_name(fields.pop("name", path.stem), "the campaign's name", path)
    }
    if "train" in fields and base.scratch is not None:  # both recipes change alike
        changes["scratch"] = _changed(base.scratch, dict(fields["train"]), f"{path} [train]")
    for key in ("space", "train", "buffered", "sustained"):
        if key in fields:
            changes[key] = _changed(getattr(base, key), fields.pop(key), f"{path} [{key}]")
    read: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "size": ("preset", preset),
        "pretraining": ("pretraining", lambda table: _pretraining(table, f"{path} [pretraining]")),
        "data": ("data", Path),
        "weights": ("weights", Path),
    }
    for key, (name, reader) in read.items():
        if key in fields:
            changes[name] = reader(fields.pop(key))
    if described and "departures" not in fields:
        changes["departures"] = ()
    if "data" in changes and "title" not in fields:
        changes["title"] = f"Weight-sharing search on {changes['data'].name}"
    try:
        made = _changed(replace(base, **changes), fields, path)
        if backbone is None:
            return made
        return _with_backbone(made, backbone, keeps_weights="weights" in changes)
    except InputError as error:
        raise error.at(path) from error


def _with_backbone(chosen: Campaign, name: str, keeps_weights: bool) -> Campaign:
    """The campaign with another backbone, and with the part of its space that the backbone runs,
    which its departures state; without weights of its base, which have a backbone of their own.
    """
    row, _ = with_backbone(chosen.preset, backbone_named(name))
    space, told = space_for(chosen.space, row.model.backbone)
    departures = (*chosen.departures, *([told] if told else []))
    found = replace(chosen, preset=row, space=space, departures=departures)
    return found if keeps_weights else from_scratch(found)


def _check_ms(latency: Any, what: str, hint: str) -> None:
    """Raises :class:`InputError` for a ``latency`` that is not a number of ms above 0."""
    number = isinstance(latency, (int, float)) and not isinstance(latency, bool)
    if not (number and 0 < latency < 1e6):
        raise InputError(f"{what} {latency!r} is not a positive number of ms", hint=hint)


def _toml(path: Path) -> dict[str, Any]:
    content = read_input(path, MOST_BYTES)
    try:
        found = tomllib.loads(content.decode())
    # not TOML, not UTF-8, an integer of thousands of digits, or nested too deeply
    except (ValueError, RecursionError) as error:
        raise InputError(f"not TOML ({error})", path) from error
    _refuse_large_numbers(found, path)
    return found


def _refuse_large_numbers(value: Any, path: Path) -> None:
    """Raises :class:`InputError` for a whole number that TOML does not have: it takes more than 64
    bits, and may be too long to be printed.
    """
    pending = [value]  # instead of a recursion, because dotted keys nest without limit
    while pending:
        item = pending.pop()
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise InputError("not TOML (a whole number of more than 64 bits)", path)
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _check_kinds(fields: dict[str, Any], path: Path) -> None:
    """Raises :class:`InputError` where a table or a text of a campaign's file is something else."""
    for key in ("space", "train", "buffered", "sustained", "pretraining"):
        if not isinstance(fields.get(key, {}), dict):
            raise InputError(f"{key} is not a table", path, f"write [{key}] on a line of its own")
    for key in ("data", "weights", "size", "backbone"):
        value = fields.get(key, "unset")
        if not is_text(value):
            raise InputError(f"{key} = {value!r} is not a text", path)


def _pretraining(fields: dict[str, Any], where: str) -> Pretraining:
    settings = dict(fields)
    if not is_text(data := settings.pop("data", None)):
        wrong = "data is missing" if data is None else f"data = {data!r} is not a text"
        raise InputError(wrong, where, "name the COCO-format folder of this stage")
    return Pretraining(Path(data), _changed(TrainConfig(), settings, where))


def _changed(row: Any, fields: dict[str, Any], where: object) -> Any:
    known = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    # asked of where the value is None
    types = {field.name: str(field.type) for field in dataclasses.fields(row)}
    if unknown := sorted(set(fields) - set(known)):
        near = nearest(unknown[0], known)
        hint = f"did you mean {near}? " if near else ""
        raise InputError(f"unknown keys {unknown}", where, f"{hint}known: {', '.join(known)}")
    changes = {}
    for name, value in fields.items():
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(known[name], float) and type(value) is int:
            value = float(value)
        wanted = types[name].split(" |")[0] if known[name] is None else type(known[name]).__name__
        if type(value).__name__ != wanted:
            raise InputError(f"{name} = {value!r} is not {wanted}", where)
        changes[name] = value
    return replace(row, **changes)
