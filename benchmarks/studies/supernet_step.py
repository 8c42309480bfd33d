"""A supernet training step: where its time goes, and against the same step built from PyTorch's
parts.

    python -m benchmarks.studies.supernet_step [--size pico|paper-supernet] [--batch 8] \
        [--steps 6] [--device cpu] [--no-masks]

The peer is the same model, data and losses with deformable attention by ``grid_sample`` and the
matching done as DETR programs do it: per stage the costs of all queries against the targets of the
whole batch, cut up per image and group, SciPy for each, one transfer to the host per stage. Steps
alternate; ratios are of medians. Images and targets are made up; decoding is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rfdetr_repro.data.coco import ClassMap
from rfdetr_repro.data.transforms import Batch, Target
from rfdetr_repro.model.detector import Outputs
from rfdetr_repro.ops.boxes import cxcywh_to_xyxy, paired_giou
from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.ops.reference import ms_deform_attn_fused_reference
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO_SPACE, PICO_TRAIN, preset
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train import losses
from rfdetr_repro.train.mask_points import PointDraws, mask_costs
from rfdetr_repro.train.matcher import Match, _points, class_costs
from rfdetr_repro.train.plan import OBJECTS, Imagined, _batch
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer


@torch.no_grad()
def match_per_image(
    stages: Sequence[Outputs],
    targets: Sequence[Target],
    groups: int,
    config: TrainConfig,
    draws: PointDraws | None = None,
) -> list[list[Match]]:
    """The usual matcher: every query of the batch against every target of the batch, then what
    belongs together is cut out.
    """
    return [
        _match_stage(one, targets, groups, config, draws or PointDraws(0), number)
        for number, one in enumerate(stages)
    ]


def _match_stage(
    outputs: Outputs,
    targets: Sequence[Target],
    groups: int,
    config: TrainConfig,
    draws: PointDraws,
    stage: int,
) -> list[Match]:
    size, queries = outputs.logits.shape[:2]
    labels = torch.cat([target.labels for target in targets])
    truth = torch.cat([target.boxes_cxcywh for target in targets]).to(outputs.boxes_cxcywh)
    boxes = outputs.boxes_cxcywh.flatten(0, 1)[:, None]
    cost = 2.0 * class_costs(outputs.logits.flatten(0, 1)[:, labels])
    cost += config.l1_weight * (boxes - truth).abs().sum(-1) - config.giou_weight * paired_giou(
        cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth[None])
    )
    cost, points = cost.reshape(size, queries, -1), _points(outputs, draws, stage)
    found = []
    start = 0
    for image, target in enumerate(targets):
        own = cost[image, :, start : start + len(target.labels)]
        start += len(target.labels)
        if points is not None and target.masks is not None:
            bce, dice = mask_costs(outputs.masks, image, target.masks, points)
            own = own + config.mask_bce_weight * bce + config.mask_dice_weight * dice
        rows = []
        columns = []
        for group, block in enumerate(own.cpu().chunk(groups)):
            row, column = linear_sum_assignment(block.nan_to_num(1e9))
            rows.append(torch.as_tensor(row) + group * (queries // groups))
            columns.append(torch.as_tensor(column))
        found.append((torch.cat(rows).to(labels.device), torch.cat(columns).to(labels.device)))
    return found


class Parts:
    """Seconds by part of a step; a part inside another is taken out of it."""

    def __init__(self, device: torch.device) -> None:
        """Measures on ``device``."""
        self.device, self.seconds, self._inner = device, defaultdict(float), [0.0]

    def now(self) -> float:
        """The time in s, after all work on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time inside the context, without nested parts, to the part ``name``."""
        started = self.now()
        self._inner.append(0.0)
        yield
        spent = self.now() - started
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed as the part ``name``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed


def step(trainer: Trainer, batches: list[Batch], parts: Parts, peer: bool) -> None:
    """One optimizer step of the next drawn architecture, timed by part."""
    scaled = trainer.state.scaler.scale

    class Backward:
        def __init__(self, loss: Tensor) -> None:
            self.loss = scaled(loss)

        def backward(self) -> None:
            with parts.part("backward"):
                self.loss.backward()

    with ExitStack() as stack:

        def patch(where: Any, name: str, new: Any) -> Any:
            return stack.enter_context(mock.patch.object(where, name, new))

        if peer:
            stack.enter_context(
                mock.patch(
                    "rfdetr_repro.model.decoder.ms_deform_attn_fused",
                    ms_deform_attn_fused_reference,
                )
            )
        patch(losses, "match", parts.wrap("matching", match_per_image if peer else losses.match))
        patch(losses, "stage_losses", parts.wrap("losses", losses.stage_losses))
        patch(trainer, "_features", parts.wrap("backbone and projector", trainer._features))
        patch(trainer, "_outputs", parts.wrap("two-stage and decoder", trainer._outputs))
        patch(trainer, "update", parts.wrap("clipping and optimizer", trainer.update))
        patch(trainer.state.ema, "update", parts.wrap("moving average", trainer.state.ema.update))
        patch(trainer.state.scaler, "scale", Backward)
        with parts.part("rest"):
            trainer.train_step(batches)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the time of each part of a training step."""
    parser = argparse.ArgumentParser("benchmarks.studies.supernet_step", description=__doc__)
    parser.add_argument("--size", default="pico", choices=("pico", "paper-supernet"))
    parser.add_argument("--batch", type=whole(1, 10**4), default=8)
    parser.add_argument("--steps", type=whole(1, 10**6), default=6)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--no-masks", action="store_true")
    parser.add_argument("--arch", help="always this one, instead of what the recipe draws")
    args = parser.parse_args(argv)
    row = preset(args.size)
    space = PICO_SPACE if args.size == "pico" else PAPER_SPACE
    if args.no_masks:
        row = replace(row, model=replace(row.model, masks=False))
    if args.arch:
        row, space = replace(row, arch=Arch.parse(args.arch)), None
    train = PICO_TRAIN if args.size == "pico" else TrainConfig()
    recipe = Recipe(
        row, replace(train, batch_size=args.batch, steps=10**6, evaluate_every=0), space
    )
    classes = tuple(f"class {index}" for index in range(row.model.num_classes))
    made_up = Imagined(ClassMap(tuple(range(1, len(classes) + 1)), classes))
    device = choose_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, made_up, Path(folder), device=device)  # type: ignore[arg-type]
        _alternate(trainer, Parts(device), Parts(device), args.steps, args.batch)


def _alternate(trainer: Trainer, ours: Parts, theirs: Parts, steps: int, batch: int) -> None:
    whole: dict[bool, list[float]] = {False: [], True: []}
    ratios = []
    for number in range(steps + 1):
        pair = {}
        for peer, parts in ((False, ours), (True, theirs)):
            trainer.state.step = number  # both take the same architecture
            batches = [
                _batch(trainer, arch, batch, OBJECTS)
                for arch in trainer.recipe.archs_of_step(number)
            ]
            before = sum(parts.seconds.values())
            step(trainer, batches, parts, peer)
            pair[peer] = sum(parts.seconds.values()) - before
        if number == 0:  # the first step warms up
            ours.seconds.clear()
            theirs.seconds.clear()
            continue
        for peer, seconds in pair.items():
            whole[peer].append(seconds)
        ratios.append(pair[True] / pair[False])
    print(
        f"{steps} steps of {batch} images, {OBJECTS} objects each, "
        f"{trainer.state.detector.config.groups} groups; {trainer.device}"
    )
    for name, parts in (("ours", ours), ("grid_sample and per-image matching", theirs)):
        total = sum(parts.seconds.values())
        listed = ", ".join(
            f"{part} {seconds / total:.1%}"
            for part, seconds in sorted(parts.seconds.items(), key=lambda p: -p[1])
        )
        print(f"{name}: {1e3 * total / steps:.0f} ms per step ({listed})")
    print(
        f"ratio {statistics.median(ratios):.2f}x, median of {len(ratios)} pairs ({min(ratios):.2f} "
        f"to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
