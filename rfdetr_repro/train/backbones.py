"""The backbone ablation (Table 6 of the paper) on any data: detectors that differ in the backbone
alone, trained by one recipe and evaluated by one rule.

Every backbone is trained with the same seeds, steps, batches, resolution, patch and decoder; what
differs beside the blocks is the projector's first layer, whose inputs are the backbone's maps. A
run of each (backbone, seed) has a folder of its own and is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.evaluation.predict_split import base_accuracies
from rfdetr_repro.model.checkpoints.backbone_folders import BackboneFolder
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.backbones import backbone_named, with_backbone
from rfdetr_repro.spec.csv_text import to_csv
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.presets import Preset
from rfdetr_repro.spec.train_config import TrainConfig

from .prepare import Backbone, start_of
from .recipe import Recipe
from .run import TrainRequest, train

RESULTS = "backbones.csv"
_SURE = 0.95  # of the intervals of differences


@dataclass(frozen=True)
class Contender:
    """A backbone of the comparison: its name, and its weights in a folder of transformers, or
    None for random weights.
    """

    name: str
    folder: BackboneFolder | None = None


@dataclass(frozen=True)
class Result:
    """What one trained detector achieved on the val split; ``params`` and ``flops`` are those of
    the deployed model, for one image.
    """

    backbone: str
    weights: str  # "random", or the first digits of the SHA-256 of the file in the folder
    seed: int
    steps: int
    ap: float | None  # fractions; None: the split has no objects
    ap50: float | None
    mask_ap: float | None  # None: no masks were trained
    params: int
    flops: int
    model_sha256: str


@dataclass(frozen=True)
class Comparison:
    """What every contender shares: ``row`` is the size whose backbone is replaced, ``train`` the
    recipe, whose seed is replaced by each of ``seeds``.
    """

    row: Preset
    train: TrainConfig
    seeds: tuple[int, ...]
    splits: Mapping[str, CocoSplit]  # "train" and "val"
    folder: Path
    device: torch.device
    processes: int | None = None
    loader_threads: int | None = None  # as in a TrainRequest

    def preset_of(self, contender: Contender) -> Preset:
        """The size with the contender's backbone, at the architecture of ``row``, but with one
        window per side where the backbone has no windows. Raises :class:`InputError` where the
        backbone cannot have the patch of ``row``.
        """
        preset, _ = with_backbone(self.row, backbone_named(contender.name))
        return preset

    def check(self, contenders: Sequence[Contender]) -> tuple[Preset, ...]:
        """The presets of the contenders, before anything is trained.

        Raises :class:`InputError` for fewer than two backbones, a name that is given twice, a
        folder with another backbone, and for architectures that would differ.
        """
        names = [contender.name for contender in contenders]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(
                f"{', '.join(names) or 'no backbone'}: a comparison needs two different backbones "
                f"at least",
                hint="write --backbones dinov2-pico,dinov3-pico",
            )
        presets = tuple(self.preset_of(contender) for contender in contenders)
        if len({preset.arch for preset in presets}) > 1:
            raise InputError(
                "the backbones would run at different windows: "
                + ", ".join(
                    f"{name} {preset.arch.key}" for name, preset in zip(names, presets, strict=True)
                ),
                hint="choose backbones with windows only, or a size with one window per side",
            )
        for preset in presets:
            Recipe(preset, self.train).check()
        return presets

    def run(self, contenders: Sequence[Contender]) -> Iterator[Result]:
        """Trains and evaluates every contender with every seed, seed by seed, and writes the
        results so far to RESULTS after each.
        """
        presets = self.check(contenders)
        found: list[Result] = []
        for seed in self.seeds:
            for contender, preset in zip(contenders, presets, strict=True):
                found.append(self._one(contender, preset, seed))
                write_results(self.folder / RESULTS, found)
                yield found[-1]

    def _one(self, contender: Contender, preset: Preset, seed: int) -> Result:
        split = self.splits["train"]
        start = start_of(preset, split, None, backbone=Backbone(contender.folder, seed))
        config = replace(self.train, seed=seed, evaluate_every=0, patience=0)
        run = train(
            TrainRequest(
                recipe=Recipe(start.preset, config),
                split=split,
                folder=self.folder / f"{contender.name}-{seed}",
                initial=start.initial,
                device=self.device,
                processes=self.processes,
                loader_threads=self.loader_threads,
            )
        )
        detector, card, sha256 = load_supernet(run.model)
        (row,) = base_accuracies(detector.to(self.device), {"val": self.splits["val"]})
        with torch.device("meta"):
            deployed = Detector(replace(card.config, groups=1), card.arch).num_params()
        return Result(
            backbone=contender.name,
            weights=contender.folder.sha256[:12] if contender.folder else "random",
            seed=seed,
            steps=run.steps,
            ap=row["ap"],
            ap50=row["ap50"],
            mask_ap=row["mask_ap"],
            params=deployed,
            flops=total_flops(card.config, card.arch),
            model_sha256=sha256,
        )


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes one row for each trained detector as CSV."""
    header = tuple(field.name for field in fields(Result))
    write_atomic(path, to_csv([header, *map(astuple, results)]))


def table(results: Sequence[Result]) -> list[str]:
    """Lines to print: one row for each backbone with the mean AP over the seeds, the range of the
    seeds, and the difference from the first backbone with its 95 % interval, paired by seed.

    The interval is Student's t over the differences of the seeds; a single seed has none.
    """
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.backbone, []).append(result)
    first = next(iter(by_name), "")
    lines = [
        f"{'backbone':<24}{'weights':<14}{'params':>9}{'GFLOPs':>9}{'AP':>8}{'AP50':>8}  seeds"
    ]
    for name, rows in by_name.items():
        one = rows[0]
        lines.append(
            f"{name:<24}{one.weights:<14}{one.params / 1e6:>7.2f} M{one.flops / 1e9:>9.3f}"
            f"{_mean([row.ap for row in rows]):>8}{_mean([row.ap50 for row in rows]):>8}  "
            + _range([row.ap for row in rows])
        )
    for name, rows in by_name.items():
        if name != first:
            lines.append(_difference(name, rows, first, by_name[first]))
    return lines


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> str:
    known = _known(values)
    return percent(float(np.mean(known)), digits=2) if known else "unknown"


def _range(values: Sequence[float | None]) -> str:
    known = _known(values)
    if not known:
        return "unknown"
    low, high = (percent(value, digits=2) for value in (min(known), max(known)))
    return f"{len(known)}: {low} to {high}"


def _difference(name: str, rows: Sequence[Result], first: str, base: Sequence[Result]) -> str:
    by_seed = {row.seed: row.ap for row in base}
    gaps = [
        100 * (row.ap - other)
        for row in rows
        if row.ap is not None and (other := by_seed.get(row.seed)) is not None
    ]
    if not gaps:
        return f"{name} against {first}: unknown"
    mean = float(np.mean(gaps))
    said = f"{name} against {first}: {mean:+.2f} points of AP"
    if len(gaps) < 2:
        return f"{said}; one seed says nothing about chance"
    half = interval_half(gaps)
    verdict = "no difference shown" if abs(mean) <= half else "a difference beyond chance"
    return f"{said}, 95 % interval {mean - half:+.2f} to {mean + half:+.2f}: {verdict}"


def interval_half(gaps: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval for the mean of at least two values."""
    spread = float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5
    return float(stats.t.ppf(0.5 + _SURE / 2, len(gaps) - 1)) * spread
