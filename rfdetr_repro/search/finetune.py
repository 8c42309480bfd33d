"""Trains one found architecture after the search, from the supernet's weights, and measures the
change (Tables 15 and 16):

python -m rfdetr_repro.finetune --model runs/mine --arch r128-p16-w1-d2-q25 \
    --data DIR --out runs/tuned [--steps N]

Resolution, patch size and windows stay as the search found them, without multi-scale training. The
model is exported before and after, and both files are measured on val (and test), as Records with
the variants "nas" and "nas+fine-tuning".
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.records.ap_intervals import difference
from rfdetr_repro.records.record import FINE_TUNING, TUNED, Accuracy, ModelId, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import ArgumentParser, output_folder, whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.metrics import milliseconds
from rfdetr_repro.spec.presets import PICO, PICO_TUNE, Preset
from rfdetr_repro.spec.protocol import DECISION, Protocol
from rfdetr_repro.spec.shared_arguments import add_device, add_model, add_training
from rfdetr_repro.spec.train_config import TRAIN_WHOLE, TrainConfig, with_settings
from rfdetr_repro.train.run import TrainRequest, train

from .deployment_arguments import add_deployment, deployment_of

if TYPE_CHECKING:
    from rfdetr_repro.bench.cells import Context, Row
    from rfdetr_repro.bench.interleaved import Watch
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.export.artifact import ArtifactMeta
    from rfdetr_repro.model.checkpoints.native import ModelCard
    from rfdetr_repro.model.detector import Detector
    from rfdetr_repro.spec.model_config import ModelConfig

    from .deployment import Deployment

log = logging.getLogger(__name__)

VARIANTS = ("nas", TUNED)
# the protocol of a search's deciding mode
MEASURED = replace(DECISION, min_samples=64, max_samples=64)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.finetune",
        description=(
            "Trains one found architecture further after the search, and measures "
            "the model before and after."
        ),
        examples=(
            "finetune --model runs/mine --arch r128-p16-w1-d2-q25 --data DIR --out runs/tuned",
        ),
    )
    add = arguments.add_argument
    add_model(arguments, "--run", text="supernet to train from: a run folder or its model file")
    add(
        "--arch",
        required=True,
        help="architecture, such as r384-p16-w2-d2-q300 (resolution, patch size, windows, decoder "
        "layers, queries)",
    )
    add_data_arguments(
        arguments, "the val split (and test, if there is one) is evaluated before and after"
    )
    add(
        "--out",
        required=True,
        type=output_folder,
        help="run folder to write; a run that exists there is resumed",
    )
    add(
        "--steps", type=whole(*TRAIN_WHOLE["steps"]), default=1000, help="number of optimizer steps"
    )
    add_training(arguments)
    add_device(arguments, "of the training")
    add_deployment(add)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and measures the architecture that ``argv`` names."""
    args = parser().parse_args(argv)
    arch = Arch.parse(args.arch)
    args.data = source_of(args)
    # checked before the data are read; the recipe that they change depends on the model
    with_settings(TrainConfig(steps=args.steps), args.set)
    source, note = args.model.weights()
    if note:
        log.info(note)
    deployment = deployment_of(args)
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.data.coco import read_splits
    from rfdetr_repro.runtime.backends import check_backend

    check_backend(deployment.backend)
    splits = read_splits(args.data, ("val", "test"))
    print_census(splits.values())
    tuning = FineTuning(
        source,
        arch,
        args.out,
        args.device,
        args.processes,
        deployment=deployment,
        loader_threads=args.loader_threads,
    )
    command = command_line("python -m rfdetr_repro.finetune", argv)
    records = tuning.run(splits, lambda card: _settings(args, card), command)
    print("\n".join(lines(records)))
    print(f"records in {args.out / 'records.jsonl'}")


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning.

    ``source``: the supernet's file; ``folder``: folder of the new run; ``store``: store of the
    Records (default: the folder's own store).
    """

    source: Path
    arch: Arch
    folder: Path
    device: str | None = None
    processes: int | None = None
    store: Path | None = None
    protocol: Protocol = field(default_factory=lambda: MEASURED)  # the protocol for both files
    deployment: Deployment | None = None  # the runtime of both files; None: the default
    loader_threads: int | None = None  # as in a TrainRequest

    def run(
        self,
        splits: Mapping[str, CocoSplit],
        settings: Callable[[ModelCard], TrainConfig],
        command: str,
    ) -> list[Record]:
        """Trains, exports and measures; returns the Records of all splits before fine-tuning, then
        those after it.

        ``splits``: train, and val or test.
        """
        from rfdetr_repro.bench.cells import Context
        from rfdetr_repro.export.artifact import ArtifactMeta
        from rfdetr_repro.model.checkpoints.native import load_supernet

        from .deployment import Deployment

        deployment = self.deployment or Deployment()
        before = load_supernet(self.source)
        run = train(self.request(*before[:2], splits, settings))
        models = dict(zip(VARIANTS, (before, load_supernet(run.model)), strict=True))
        held_out = [split for name, split in splits.items() if name != "train"]
        records = []
        with deployment.watched() as watched:
            machine = None if watched is None else watched.machine
            watch = None if watched is None else watched.watch
            context = Context(FINE_TUNING, command, machine=machine)
            for variant, (model, card, sha256) in models.items():
                identity = self._identity(variant, sha256, card.precision)
                meta = ArtifactMeta(identity, card.class_names, card.category_ids, card.resize_rule)
                row = self._row(deployment, model, meta, held_out)
                records += self._measured(row, context, watch)
        return records

    def request(
        self,
        supernet: Detector,
        card: ModelCard,
        splits: Mapping[str, CocoSplit],
        settings: Callable[[ModelCard], TrainConfig],
    ) -> TrainRequest:
        """The training of :attr:`arch` from the weights of ``supernet``; prints a line if this
        backbone was not trained.
        """
        from rfdetr_repro.ops.device import choose_device
        from rfdetr_repro.train.prepare import cpu_weights
        from rfdetr_repro.train.recipe import Recipe

        supernet.check(self.arch)
        if card.space is not None and self.arch.backbone not in {
            one.backbone for one in card.space.training_archs()
        }:
            log.info(
                f"{self.arch.key}: {self.source} trained no architecture with this backbone; "
                f"training starts from resampled weights"
            )
        split = splits["train"]
        held_out = {name: one for name, one in splits.items() if name != "train"}
        if (card.class_names, card.category_ids) != (
            split.classes.names,
            split.classes.category_ids,
        ):
            raise InputError(
                "the supernet was trained for other classes",
                split.name,
                "use the supernet's data set, or train with python -m rfdetr_repro.train --weights",
            )
        if not held_out:
            raise InputError(
                "the data have no val split",
                split.name,
                "fine-tuning is judged on val, so add a val split",
            )
        return TrainRequest(
            recipe=Recipe(Preset(card.config, self.arch), settings(card)),
            split=split,
            folder=self.folder,
            held_out={"val": held_out["val"]} if "val" in held_out else held_out,
            initial=cpu_weights(supernet),
            device=choose_device(self.device),
            processes=self.processes,
            loader_threads=self.loader_threads,
        )

    def _identity(self, variant: str, sha256: str, precision: str | None) -> ModelId:
        return ModelId(
            "rfdetr",
            f"rfdetr-{self.arch.key}",
            variant=variant,
            checkpoint_sha256=sha256,
            trained_in=precision,
        )

    def _row(
        self, deployment: Deployment, model: Detector, meta: ArtifactMeta, splits: list[CocoSplit]
    ) -> Row:
        """The file of :attr:`arch` of ``model`` on the deployment, to measure on ``splits``."""
        from rfdetr_repro.bench.cells import Row

        from .deployment import Deployed

        folder = self.folder / "artifacts"
        deployed = Deployed(deployment, model, lambda arch: meta, folder, splits[0])
        threads = self.protocol.threads
        return Row(
            deployed.file(self.arch),
            lambda build: deployed.open(self.arch, threads, build),
            tuple(splits),
        )

    def _measured(self, row: Row, context: Context, watch: Watch | None) -> list[Record]:
        from rfdetr_repro.bench.confirm import confirm_all
        from rfdetr_repro.records.store import Store

        store = Store(self.store or self.folder / "records.jsonl")
        name = row.artifact.manifest.model.name
        outcome = confirm_all({name: row}, [self.protocol], store, context=context, watch=watch)
        for failure in outcome.failures.values():
            raise failure
        return outcome.records[name]


def _settings(args: argparse.Namespace, card: ModelCard) -> TrainConfig:
    base = replace(base_recipe(card.config), steps=args.steps, base_share=0.0, evaluate_every=0)
    return with_settings(base, args.set)


def base_recipe(config: ModelConfig) -> TrainConfig:
    """The pico recipe for a model of pico's width, else upstream's recipe."""
    return PICO_TUNE if config.vit_dim == PICO.model.vit_dim else TrainConfig()


def lines(records: Sequence[Record]) -> list[str]:
    """Lines with AP before and after, by split, for boxes and masks, in percent with the
    difference; and the latency of both files.
    """
    before, after = (
        [record for record in records if record.model.variant == variant] for variant in VARIANTS
    )
    rows = [
        f"{'split':6} {'':6} {'metric':6} {'before':>7} {'after':>7} {'change':>7}  95 % interval "
        f"of the change"
    ]
    for one, two in zip(before, after, strict=True):
        split = one.data.split if one.data else ""
        for kind, pair in (
            ("boxes", (one.accuracy, two.accuracy)),
            ("masks", (one.mask_accuracy, two.mask_accuracy)),
        ):
            rows += [f"{split:6} {kind:6} {row}" for row in _differences(*pair)]
    files = ", ".join(
        f"{record.model.variant} {record.artifact.sha256[:12]} "
        f"{milliseconds(record.latency.median_ms)} ms"
        for record in (before[0], after[0])
        if record.artifact and record.latency
    )
    return [*rows, files]


def _differences(before: Accuracy | None, after: Accuracy | None) -> list[str]:
    rows = []
    for name, label in (("ap", "AP"), ("ap50", "AP50")):
        old = getattr(before, name, None)
        new = getattr(after, name, None)
        if old is not None and new is not None:
            interval = f"  {_interval(before, after)}" if name == "ap" else ""
            rows.append(
                f"{label:6} {100 * old:7.1f} {100 * new:7.1f} {100 * (new - old):+7.1f}{interval}"
            )
    return rows


def _interval(before: Accuracy | None, after: Accuracy | None) -> str:
    """The 95 % interval of the paired difference of AP, in points, with a remark if the interval
    contains 0.
    """
    change = difference(before, after)
    if change is None:
        return "unknown"
    interval = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return interval if change.distinguishable else f"{interval}: not distinguishable from no change"
