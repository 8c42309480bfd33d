"""RF-DETR and rivals trained on the same data by the same budget with several seeds, exported, and
measured by one protocol in turns.

Everything is checked before the first step. A stopped comparison goes on where it was: trainings
have their own states, artifacts and Records are found again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rfdetr_repro.bench.cells import Context, Row
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import RIVALS, Budget, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, StatedFailure, first_line
from rfdetr_repro.spec.files import read_json, writable_folder, write_atomic
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO_SPACE, PICO_TRAIN, Preset
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.sizing import Sizing
from rfdetr_repro.spec.train_config import TrainConfig, with_settings
from rfdetr_repro.train.prepare import start_of
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train

from . import library
from .artifacts import our_artifacts, rival_artifact, try_export
from .module import RivalModule
from .names import OUR_SIZES, PICO_SIZES, Entrant
from .recipe import RivalRecipe, rival_recipe, with_rival_settings
from .training import RivalRequest, train_rival

if TYPE_CHECKING:
    from rfdetr_repro.bench.watching import Report

log = logging.getLogger(__name__)

BUDGET = "budget.json"
RECORDS = "records.jsonl"
# settings that make the budget, which is the same for all models
SHARED = ("steps", "batch_size", "accumulate", "flip_probability", "crop_probability")
_SPACES = {"pico": PICO_SPACE, "paper-supernet": PAPER_SPACE}


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        entrants: the models.
        seeds: of the trainings; each model is trained once per seed.
        splits: by name: train, val, and test where the data have it.
        folder: of the comparison.
        budget: settings like "steps=400" that hold for all models.
        own: name of a model -> settings of this model alone, such as its rates.
        protocols: how latency is measured.
        device: of the trainings.
        queries: object queries of every model; None: the size's own.
        shape: input height and width in px of every model without a search space; None: the size's
            own.
        archs: number of architectures of an RF-DETR supernet that are measured.
        command: the command line, for the Records.
    """

    entrants: Sequence[Entrant]
    seeds: Sequence[int]
    splits: Mapping[str, CocoSplit]
    folder: Path
    protocols: Sequence[Protocol]
    device: torch.device
    budget: Sequence[str] = ()
    own: Mapping[str, Sequence[str]] | None = None
    queries: int | None = None
    shape: tuple[int, int] | None = None
    archs: int = 5
    command: str = ""


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be trained: an RF-DETR has ``ours``, a rival ``theirs``.
    ``initial``: weights to start from; None: random. ``taken`` says which.
    """

    entrant: Entrant
    config: TrainConfig
    initial: Mapping[str, Tensor] | None
    taken: str
    ours: Recipe | None = None
    theirs: RivalRecipe | None = None


def run(asked: Comparison, report: Report | None = None) -> list[Record]:
    """Trains, exports and measures; returns the Records, which are also in the folder's store.

    Raises :class:`InputError` for bad input before anything is trained, and as training and
    measurement do.
    """
    prepared = [prepare(asked, one) for one in asked.entrants]
    for one in prepared:
        check_runs(asked, one)
    _check_budget(asked, prepared)
    rows: dict[str, Row] = {}
    for seed in asked.seeds:
        for one in prepared:
            log.info(f"{one.entrant.id}, seed {seed}: {one.taken or 'random weights'}")
            for artifact in _trained(asked, one, seed):
                title = _title(artifact)
                rows[title] = _row(asked, artifact, seed)
    config = prepared[0].config  # the budgets are equal
    budget = Budget(config.steps, config.batch_size * config.accumulate)
    context = Context(RIVALS, asked.command, budget=budget)
    store = Store(asked.folder / RECORDS)
    quick = any(protocol.quick for protocol in asked.protocols)
    outcome = confirm_all(
        rows,
        asked.protocols,
        store,
        context=context,
        twin="never" if quick else "once",
        report=report,
    )
    if outcome.failures:
        told = "; ".join(f"{name}: {error}" for name, error in outcome.failures.items())
        raise StatedFailure(f"{len(outcome.failures)} of {len(rows)} rows failed: {told}")
    return [record for found in outcome.records.values() for record in found]


# -- preparation ----------------------------------------------------------------------------------


def prepare(asked: Comparison, entrant: Entrant) -> Prepared:
    """The recipe and the initial weights of one model, for the classes of the data."""
    given = [*asked.budget, *(asked.own or {}).get(entrant.id, ())]
    if entrant.size is None:
        return _prepare_ours(asked, entrant, given)
    size = entrant.size if asked.shape is None else replace(entrant.size, hw=asked.shape)
    classes = asked.splits["train"].classes
    version = library.check_package()
    config = with_rival_settings(rival_recipe(size, _base(asked.entrants)), given)
    fields = library.configuration(
        size, classes, pretrained=entrant.weights is not None, queries=asked.queries
    )
    recipe = RivalRecipe(size, config, json.dumps(fields, sort_keys=True), version)
    initial, taken = None, ""
    if entrant.weights is not None:
        initial, taken = library.start(library.from_config(size, fields), entrant.weights)
    return Prepared(entrant, config, initial, taken, theirs=recipe)


def _base(entrants: Sequence[Entrant]) -> TrainConfig:
    """RF-DETR's recipe, of the size pico where a model of pico width takes part."""
    pico = any(one.id in ("rfdetr-pico", *PICO_SIZES) for one in entrants)
    return PICO_TRAIN if pico else TrainConfig()


def _prepare_ours(asked: Comparison, entrant: Entrant, given: Sequence[str]) -> Prepared:
    if entrant.preset is None:
        raise ValueError(f"{entrant.id} has no preset")
    size = OUR_SIZES[entrant.id]
    space: SearchSpace | None = _SPACES.get(size)
    row: Preset = entrant.preset
    if asked.shape is not None and space is None:
        row = replace(row, arch=row.arch.with_input(*asked.shape))
    sizing = None if asked.queries is None else Sizing(queries=asked.queries)
    if sizing is not None and space is not None:
        space = sizing.space(space, row.arch)
    config = with_settings(_base(asked.entrants), given)
    start = start_of(row, asked.splits["train"], entrant.weights, sizing)
    recipe = Recipe(start.preset, config, space)
    return Prepared(entrant, config, start.initial, start.taken, ours=recipe.check())


def check_runs(asked: Comparison, one: Prepared) -> None:
    """Raises :class:`InputError` for a rival that cannot be trained on images of its size, or
    cannot be exported: a step without an update is taken on two images, and a file is made and
    removed.
    """
    if one.theirs is None:
        return
    size = one.theirs.size
    classes = asked.splits["train"].classes
    where = f"{size.id} at {size.hw[0]}x{size.hw[1]}"
    torch.manual_seed(0)
    try:
        model = library.from_config(size, json.loads(one.theirs.model))
        module = RivalModule(model, size.normalise, size.hw).eval()
        with torch.no_grad():
            module(torch.zeros(1, 3, *size.hw))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"the model does not run on images of this size: {first_line(error)}",
            where,
            "give a --shape whose sides are multiples of 64, or fewer --queries",
        ) from error
    try_export(size, classes, model)


def _check_budget(asked: Comparison, prepared: Sequence[Prepared]) -> None:
    """Writes the budget into a new folder. Raises :class:`InputError` where models differ in it,
    and for a folder of another budget.
    """
    budgets = {}
    for one in prepared:
        settings = asdict(one.config)
        budgets[one.entrant.id] = {name: settings[name] for name in SHARED}
    first, budget = next(iter(budgets.items()))
    for name, other in budgets.items():
        if differing := [key for key in SHARED if other[key] != budget[key]]:
            key = differing[0]
            raise InputError(
                f"the budgets differ: {key} is {budget[key]} for {first} and {other[key]} for "
                f"{name}",
                hint=f"give {key} for all models, with --set {key}=VALUE or its own argument",
            )
    budget["train_data"] = asked.splits["train"].sha256
    path = writable_folder(asked.folder) / BUDGET
    if path.exists():
        before = read_json(path)
        stored = before if isinstance(before, dict) else {}
        for key, value in budget.items():
            if stored.get(key) != value:
                raise InputError(
                    f"this comparison was started with {key} = {stored.get(key)}, not {value}",
                    path,
                    "use another --out, or the same budget",
                )
    else:
        write_atomic(path, json.dumps(budget, indent=1) + "\n")


# -- training and export --------------------------------------------------------------------------


def _trained(asked: Comparison, one: Prepared, seed: int) -> list[Artifact]:
    """Trains one model with one seed, unless that is done, and exports it."""
    folder = asked.folder / one.entrant.id / f"seed{seed}"
    files = writable_folder(asked.folder / "artifacts")
    split = asked.splits["train"]
    held_out = {"val": asked.splits["val"]} if one.config.evaluate_every else {}
    config = replace(one.config, seed=seed)
    if one.theirs is not None:
        recipe = replace(one.theirs, train=config)
        request = RivalRequest(recipe, split, folder, asked.device, held_out, one.initial)
        done = train_rival(request)
        return [rival_artifact(recipe.size, split.classes, done, seed, files)]
    if one.ours is None:
        raise ValueError(f"{one.entrant.id} has no recipe")
    ours = replace(one.ours, train=config)
    run_of_ours = train(
        TrainRequest(
            recipe=ours,
            split=split,
            folder=folder,
            held_out=held_out,
            initial=one.initial,
            device=asked.device,
            processes=1 if asked.device.type == "cpu" else None,
        )
    )
    size = OUR_SIZES[one.entrant.id]
    return our_artifacts(run_of_ours.model, size, measured_archs(ours, asked.archs), seed, files)


def measured_archs(recipe: Recipe, count: int) -> list[Arch]:
    """The architectures of a supernet that are measured: chosen before any result is known,
    ``count`` of them evenly over the logarithm of their operations, and the preset's own.
    """
    if recipe.space is None:
        return [recipe.preset.arch]
    model = recipe.preset.model
    costs = {arch: math.log(total_flops(model, arch)) for arch in recipe.space}
    low, high = min(costs.values()), max(costs.values())
    steps = max(1, count - 1)
    wanted = [low + (high - low) * index / steps for index in range(count)]
    chosen = [min(costs, key=lambda arch: (abs(costs[arch] - goal), arch)) for goal in wanted]
    return list(dict.fromkeys([*chosen, recipe.preset.arch]))


# -- measurement ----------------------------------------------------------------------------------


def _row(asked: Comparison, artifact: Artifact, seed: int) -> Row:
    splits = tuple(asked.splits[name] for name in ("val", "test") if name in asked.splits)
    threads = asked.protocols[0].threads
    return Row(artifact, partial(_open, artifact, threads), splits, seed)


def _open(artifact: Artifact, threads: int, build: int) -> Any:
    return open_session(artifact, "onnxruntime", threads=threads)


def _title(artifact: Artifact) -> str:
    model = artifact.manifest.model
    arch = model.arch.key if model.arch else None
    return " ".join(filter(None, (model.name, model.size, arch, model.variant)))
