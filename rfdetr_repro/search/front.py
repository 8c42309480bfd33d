"""Fine-tuning of every confirmed architecture of a search (``--finetune-front``): each is trained
further from the supernet's weights, exported, and measured by the same full protocol, on the same
deployment, as the file before it. So a budget chooses among the files before and after.

Every fine-tuning is a training run of its own in ``RUN/finetuned``, in a folder with the name of
the architecture and the first digits of the supernet's SHA-256. A run that was stopped is resumed;
files and Records that exist are not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.records.ap_intervals import difference
from rfdetr_repro.records.record import TUNED, Accuracy, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.metrics import in_points, milliseconds, percent
from rfdetr_repro.spec.stage import Stage, current, working_on
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.tables.format import Cell, Column, Table
from rfdetr_repro.train.plan import plan
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.trainer import MODEL

from .finetune import FineTuning, base_recipe
from .request import Front, SearchRequest
from .search import Search

FOLDER = "finetuned"
SAVES = 5  # times that a fine-tuning saves its state, so that kill -9 loses a fifth at most


@dataclass(frozen=True)
class FrontTuning:
    """The fine-tunings of a search. ``split``: the images to train on, in the supernet's classes;
    ``confirm_on``: splits that the files are evaluated on.
    """

    request: SearchRequest
    asked: Front
    search: Search
    split: CocoSplit
    confirm_on: tuple[CocoSplit, ...]

    def check(self) -> None:
        """Raises :class:`~rfdetr_repro.spec.errors.InputError` for data that the supernet cannot be
        fine-tuned on.
        """
        self.training(self.search.card.arch)

    def lines(self, archs: Sequence[Arch]) -> list[str]:
        """How many fine-tunings are to come, and about how long they take on this machine."""
        left = [arch for arch in archs if not self._trained(arch)]
        done = f"; {len(archs) - len(left)} of {len(archs)} are trained already"
        counted = f"fine-tuning: {_models(len(left))}, {self.recipe.steps} steps each"
        if len(left) < len(archs):
            counted += done
        if not left:
            return [counted]
        seconds = sum(3600 * self._hours(arch) for arch in left)
        measuring = len(left) * sum(one.builds * one.timeout_s for one in self.request.protocols)
        return [
            counted,
            f"fine-tuning: about {_time(seconds)} of training, evaluations not counted; then "
            f"{_time(measuring)} of latency measurements at most",
        ]

    def tune(
        self, archs: Sequence[Arch], tell: Callable[[str], None] = lambda line: None
    ) -> list[Record]:
        """Trains, exports and measures each of ``archs``; returns the Records of the fine-tuned
        files. What an earlier call has finished is read.
        """
        records = []
        for number, arch in enumerate(archs, start=1):
            tell(f"fine-tuning {number} of {len(archs)}: {arch.key}")
            with working_on(self._stage(archs[number:])):
                model = train(self.training(arch)).model
            detector, card, sha256 = load_supernet(model)
            tuned = replace(
                self.search,
                detector=detector,
                card=card,
                checkpoint_sha256=sha256,
                folder=model.parent / "artifacts",
                variant=TUNED,
            )
            records += tuned.confirm(arch, self.confirm_on, self.request.protocols)
        return records

    def _stage(self, later: Sequence[Arch]) -> Stage | None:
        """The current stage of a longer flow, in which ``later`` are trained too."""
        stage = current()
        if stage is None:
            return None
        left = sum(not self._trained(arch) for arch in later)
        return replace(stage, rest_steps=stage.rest_steps + left * self.recipe.steps)

    @property
    def recipe(self) -> TrainConfig:
        """The recipe of every fine-tuning."""
        asked = self.asked
        base = asked.recipe or base_recipe(self.search.card.config)
        every = max(1, min(base.checkpoint_every, asked.steps // SAVES))
        return replace(
            base,
            steps=asked.steps,
            checkpoint_every=every,
            base_share=0.0,
            evaluate_every=0,
            sampling="uniform",
        )

    def _trained(self, arch: Arch) -> bool:
        """Whether the fine-tuning of ``arch`` is complete; the model's file is written last."""
        return (self._folder(arch) / MODEL).exists()

    def _folder(self, arch: Arch) -> Path:
        return self.request.run / FOLDER / f"{arch.key}-{self.search.checkpoint_sha256[:8]}"

    def training(self, arch: Arch) -> TrainRequest:
        """The training of ``arch`` from the supernet's weights."""
        request = self.request
        search = self.search
        tuning = FineTuning(
            request.run / MODEL,
            arch,
            self._folder(arch),
            request.device,
            self.asked.processes,
        )
        splits = {"train": self.split, search.split.split: search.split}
        return tuning.request(search.detector, search.card, splits, self._settings)

    def _settings(self, card: ModelCard) -> TrainConfig:
        return self.recipe

    def _hours(self, arch: Arch) -> float:
        device = choose_device(self.request.device)
        return plan(self.training(arch).recipe, device, len(self.split)).hours


def planned(recipe: Recipe, hours: float, most: int) -> str:
    """A line for a plan before the search, in which the architectures are not known: at most
    ``most`` fine-tunings, each as long as that of the recipe's architecture.
    """
    return (
        f"fine-tuning: at most {_models(most)}, {recipe.train.steps} steps each, about "
        f"{_time(3600 * hours * most)} if all cost as much as {recipe.preset.arch.key}"
    )


def gains_table(before: Sequence[Record], after: Sequence[Record], mode: str) -> Table:
    """AP of boxes and masks and latency of the files before and after fine-tuning; the interval is
    that of the paired difference of AP over other images of the same kind.

    ``mode``: the latency mode of the Records that are shown.
    """
    columns = [
        Column("arch", "architecture", right=False),
        Column("split", "split", right=False),
        Column("kind", "AP of", right=False),
        *(Column(key, key) for key in ("before", "after", "change")),
        Column("interval", "95 % interval", right=False),
        Column("ms", "ms"),
    ]
    table = Table("front", "What fine-tuning adds", columns)
    old = {_cell(one): one for one in before if _mode(one) == mode}
    for record in (one for one in after if _mode(one) == mode):
        start = old.get(_cell(record))
        for kind in ("boxes", "masks"):
            pair = [_accuracy(one, kind) for one in (start, record)]
            row = _gain_row(*pair)
            if row is not None:
                latency = record.latency
                row["ms"] = Cell("" if latency is None else milliseconds(latency.median_ms))
                row["kind"] = Cell(kind)
                row["arch"] = Cell(record.model.arch.key if record.model.arch else "")
                row["split"] = Cell(record.data.split if record.data else "")
                table.add(row)
    table.notes = [
        f"ms: {mode} latency of the fine-tuned file.",
        "~: the interval contains 0, so no change is established.",
        "unknown: there are too few images for an interval, or no AP.",
    ]
    return table


def _gain_row(before: Accuracy | None, after: Accuracy | None) -> dict[str, Cell] | None:
    low = None if before is None else before.ap
    high = None if after is None else after.ap
    if high is None:
        return None
    row = {"before": Cell(percent(low, "unknown")), "after": Cell(percent(high))}
    row["change"] = Cell("unknown" if low is None else in_points(high - low))
    change = difference(before, after)
    text = "unknown"
    if change is not None:
        mark = "" if change.distinguishable else " ~"
        text = f"{in_points(change.low)} to {in_points(change.high)}{mark}"
    return row | {"interval": Cell(text)}


def _accuracy(record: Record | None, kind: str) -> Accuracy | None:
    if record is None:
        return None
    return record.accuracy if kind == "boxes" else record.mask_accuracy


def _mode(record: Record) -> str:
    return record.protocol.mode if record.protocol else ""


def _cell(record: Record) -> tuple[object, ...]:
    return record.model.arch, record.data and (record.data.name, record.data.split)


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
