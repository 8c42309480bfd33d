"""The parts of a search of the paper's space, each timed on this machine and stored as a Record.

    python -m benchmarks.studies.search_parts --out results/search_cost.jsonl [--only NAME ...]

A part is one unit of work on one thread: one picture decoded, one picture resized, one
configuration of a backbone's 28 scored on 500 images, one image of one configuration resampled for
a race, one exported file, and one image through the least, the median and the ninth-decile backbone
by operations, with all decoders that share it. Times are CPU times of this process, so that other
programs of the machine disturb them little; the median of the repeats is stored, with its exact
95 % interval (order statistics) where at least six repeats allow one. Pictures, annotations and
matches are made up with COCO's statistics and weights are random: no time here depends on their
values.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binom

from benchmarks.studies.coco_data import make_detections, make_split
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import THRESHOLDS, Objects, Resamples, accuracy_of
from rfdetr_repro.evaluation.shared_matches import SharedMatcher
from rfdetr_repro.export.artifact import ArtifactMeta
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Cost, Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.evaluation import by_backbone
from rfdetr_repro.search.plan import group_flops, made_up_matches
from rfdetr_repro.search.race import Rules, predictive_weights
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET

CAMPAIGN = "search-cost"
IMAGES = 5000
COCO_CLASSES = 80
PICTURE_HW = (480, 640)
RESAMPLED_IMAGES = 200
SCORED_IMAGES = 500  # whose time grows in proportion at most: 5,000 need several GiB
SHARED = len(PAPER_SPACE.decoder_layers) * len(PAPER_SPACE.queries)  # decoders of one backbone
DECODING = "decoding of a picture of 480x640"
RESIZING = "resizing of a picture to {side} px"
SCORING = f"matching and AP of a configuration among {SHARED}, {SCORED_IMAGES} images"
DECIDING = "resampled AP of a configuration, per image, 200 resamples"
EXPORTING = "export of a file"
PASSING = "shared pass of an image, {which} backbone"
SIDES = (min(PAPER_SPACE.resolutions), 640, max(PAPER_SPACE.resolutions))
PASSES = ("least", "median", "ninth decile")


@dataclass(frozen=True)
class Part:
    """A unit of work. ``make`` returns the function that is timed; ``flops``: its operations, where
    they are counted.
    """

    name: str
    make: Callable[[], Callable[[], object]]
    repeats: int
    arch: Arch | None = None
    flops: float | None = None


def groups() -> list[tuple[float, list[Arch]]]:
    """The groups of the paper's space that share a backbone, with the operations of one image
    through each, the least expensive first.
    """
    found = [(group_flops(PAPER_SUPERNET.model, one), one) for one in by_backbone(PAPER_SPACE)]
    return sorted(found, key=lambda pair: pair[0])


def timed_places(count: int) -> tuple[int, int, int]:
    """Places of the backbones that are timed among ``count`` in order of their operations."""
    return 0, count // 2, 9 * count // 10


def parts() -> Iterator[Part]:
    """All parts, the cheap ones first."""
    yield Part(DECODING, _decoding, 15)
    for side in SIDES:
        yield Part(RESIZING.format(side=side), lambda side=side: _resizing(side), 15)
    yield Part(DECIDING, _deciding, 7)
    yield Part(SCORING, _scoring, 6)
    ordered = groups()
    middle = ordered[len(ordered) // 2][1][0]
    yield Part(EXPORTING, lambda: _exporting(middle), 6, middle)
    for which, index in zip(PASSES, timed_places(len(ordered)), strict=True):
        flops, group = ordered[index]
        repeats = 2 if which == PASSES[-1] else 6
        yield Part(
            PASSING.format(which=which),
            lambda group=group: _passing(group),
            repeats,
            group[0],
            flops,
        )


def _picture() -> np.ndarray:
    """Noise in the low frequencies, which JPEG packs about as a photograph."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    height, width = PICTURE_HW
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _decoding() -> Callable[[], object]:
    stream = io.BytesIO()
    Image.fromarray(_picture()).save(stream, "JPEG", quality=90)
    content = stream.getvalue()
    return lambda: np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _resizing(side: int) -> Callable[[], object]:
    picture = _picture()
    return lambda: network_input([picture], (side, side))


def _deciding() -> Callable[[], object]:
    found, objects = made_up_matches(2 * RESAMPLED_IMAGES, max(PAPER_SPACE.queries), COCO_CLASSES)
    weights = predictive_weights(range(RESAMPLED_IMAGES), 2 * RESAMPLED_IMAGES, Rules())
    resamples = Resamples.of(objects, weights)
    return lambda: resamples.average_precision(found, range(THRESHOLDS))


def _scoring() -> Callable[[], object]:
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), SCORED_IMAGES)
    most = max(PAPER_SPACE.queries)
    found = {seed: make_detections(split, most, masks=False, seed=seed) for seed in range(SHARED)}
    evaluator = CocoEvaluator(split)
    objects = Objects.of(evaluator)
    matcher = SharedMatcher(evaluator)

    def score() -> object:
        matches = matcher.matches(found)
        return [accuracy_of(one, objects, evaluator.max_dets) for one in matches.values()]

    return score


def _detector() -> Detector:
    torch.manual_seed(0)
    return Detector(PAPER_SUPERNET.model, PAPER_SUPERNET.arch).eval()


def _exporting(arch: Arch) -> Callable[[], object]:
    detector = _detector()
    names = tuple(f"class {index}" for index in range(detector.config.num_classes))
    meta = ArtifactMeta(
        ModelId("rfdetr", arch.key, weights="random"), names, tuple(range(len(names)))
    )

    def export() -> None:
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(detector.slice(arch), Path(folder, "plan.onnx"), meta=meta)

    return export


def _passing(group: Sequence[Arch]) -> Callable[[], object]:
    detector = _detector()
    first = group[0]
    depths = [arch.decoder_layers for arch in group]
    queries = [arch.queries for arch in group]
    image = torch.rand(1, 3, *first.input_hw)

    @torch.inference_mode()
    def work() -> Any:
        maps = detector.features(image, first.patch, first.windows)
        return detector.decode_shared(maps, first.input_hw, depths, queries, masks=False)

    return work


def measured(part: Part, command: str) -> Record:
    """Runs a part on one thread and returns its Record. The first run is not timed, because it
    allocates memory; a part of two repeats has no such run, because it is long.
    """
    started_at = utc_now()
    work = part.make()
    if part.repeats > 2:
        work()
    times = []
    for _ in range(part.repeats):
        started = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - started))
    scale = {DECIDING: 1 / RESAMPLED_IMAGES, SCORING: 1 / SHARED}.get(part.name, 1.0)
    times = sorted(scale * one for one in times)
    low, high = interval(times)
    return Record(
        "cost",
        ModelId(
            "rfdetr", "rfdetr paper supernet", variant=part.name, arch=part.arch, weights="random"
        ),
        cost=None if part.flops is None else Cost(flops=part.flops, counter="shapes"),
        latency=Latency(
            float(np.median(times)), ci_low_ms=low, ci_high_ms=high, num_samples=len(times)
        ),
        machine=this_machine(),
        campaign=CAMPAIGN,
        started_at=started_at,
        command=command,
        deployment="CPU time of one thread",
        env=environment(),
    )


def interval(ordered: Sequence[float]) -> tuple[float | None, float | None]:
    """The exact 95 % interval of the median from sorted samples; (None, None) below six."""
    count = len(ordered)
    rank = int(binom.ppf(0.025, count, 0.5))
    if rank < 1:
        return None, None
    return ordered[rank - 1], ordered[count - rank]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the parts that the store does not hold yet."""
    parser = argparse.ArgumentParser("benchmarks.studies.search_parts", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="store of the Records")
    parser.add_argument(
        "--only", nargs="+", help="time only parts whose names begin with these words"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    store = Store(args.out)
    done = {record.model.variant for record in store.read() if record.campaign == CAMPAIGN}
    chosen = [
        part
        for part in parts()
        if args.only is None or any(part.name.startswith(text) for text in args.only)
    ]
    if not chosen:
        names = "; ".join(part.name for part in parts())
        raise InputError("no such part", "--only", f"choose from: {names}")
    for part in chosen:
        if part.name in done:
            continue
        print(f"timing: {part.name}", flush=True)
        record = measured(part, command_line("python -m benchmarks.studies.search_parts", argv))
        store.append(record)
        latency = record.as_latency().latency
        print(f"{part.name}: {latency.median_ms:.4g} ms of CPU time", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
