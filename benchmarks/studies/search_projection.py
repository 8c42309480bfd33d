"""What searching the paper's space on a T4 would take, from counted operations, published rates and
parts measured here.

    python -m benchmarks.studies.search_projection [--race-passes 0.35] \
        [--engine-minutes 6] [--out docs/search_cost.md]

Operations: our counter, which gives the printed GFLOPs of every released size. Rate: the slowest of
the paper's own RF-DETR rows (GFLOPs over TensorRT FP16 latency, Table 2) as a part of the card's
FP16 peak, applied to its FP32 peak, because passes run in float32: a batch of images in PyTorch
should do no worse. COCO evaluation and the resampled AP that a race decides by are timed here, on
made-up annotations with val2017's statistics; the former can be given, where this machine is not
quiet. Minutes of an engine and the race's share of the passes are arguments: the former bounds
TensorRT's build and the short protocol, the latter is what benchmarks/studies/race.py prints.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies.coco_data import make_detections, make_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.paper.published import published_rows
from rfdetr_repro.search.engines import Fit
from rfdetr_repro.search.evaluation import by_backbone
from rfdetr_repro.search.plan import Job, decisions_s, group_flops
from rfdetr_repro.search.race import Rules
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET
from rfdetr_repro.spec.protocol import DECISION

IMAGES = 5000
COCO_CLASSES = 80
# peak operations a second, NVIDIA's T4 data sheet
T4_FP16 = 65e12
T4_FP32 = 8.1e12
PUBLISHED_HOURS = 10_000  # of one T4, for all configurations (v2 Appendix)


def published_share() -> float:
    """Lowest part of the T4's FP16 peak that an RF-DETR row of Table 2 reaches."""
    rows = [row for row, _ in published_rows("2") if row["model"] == "RF-DETR"]
    return (
        min(float(row["gflops"]) * 1e9 / (float(row["latency_ms"]) / 1e3) for row in rows) / T4_FP16
    )


def evaluation_seconds(masks: bool) -> float:
    """One evaluation of 5,000 images x 300 detections on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), IMAGES)
    detections = make_detections(split, 300, masks)
    evaluator = CocoEvaluator(split)
    # the annotations' side is made once for all configurations
    evaluator.accuracy(detections, "segm" if masks else "bbox")
    started = time.perf_counter()
    evaluator.accuracy(detections, "segm" if masks else "bbox")
    return time.perf_counter() - started


def page(args: argparse.Namespace) -> str:
    """The text of docs/search_cost.md."""
    engine_minutes = args.engine_minutes
    engines = args.engines
    candidates = args.candidates
    builds = args.builds
    race_passes = args.race_passes
    model = PAPER_SUPERNET.model
    groups = list(by_backbone(PAPER_SPACE.check()))
    shared = sum(group_flops(model, group) for group in groups)
    alone = sum(total_flops(model, arch, "eager") for group in groups for arch in group)
    share = published_share()
    seconds = args.evaluation_seconds or evaluation_seconds(masks=False)
    rate = share * T4_FP32
    size = len(PAPER_SPACE)
    passes = shared * IMAGES / rate / 3600
    scoring = size * seconds / 3600
    latency = engines * engine_minutes / 60
    job = Job(PAPER_SPACE, IMAGES, Fit(engines), candidates, (DECISION,), Rules())
    deciding = decisions_s(job, COCO_CLASSES) / 3600
    confirming = candidates * builds * engine_minutes / 60
    rows = [
        (
            "operations of one image through every configuration, one by one",
            f"{alone / 1e12:,.0f} TFLOP",
            "counted",
        ),
        (
            f"the same, shared: {len(groups)} backbones",
            f"{shared / 1e12:,.1f} TFLOP, {alone / shared:.1f}x fewer",
            "counted",
        ),
        (
            "rate in float32",
            f"{rate / 1e12:.2f} TFLOP/s",
            f"{share:.0%} of a T4's peak, the lowest of Table 2's RF-DETR rows",
        ),
        (
            f"all passes, {IMAGES:,} images",
            f"{passes:.0f} h",
            f"{shared / 1e12:,.1f} x {IMAGES:,} / {rate / 1e12:.2f} / 3,600",
        ),
        (
            "COCO evaluation of all configurations",
            f"{scoring:.1f} h of CPU",
            f"{size:,} x {seconds:.2f} s, timed {'earlier' if args.evaluation_seconds else 'here'}",
        ),
        (
            "latency model",
            f"{latency:.1f} h",
            f"{engines} engines x {engine_minutes:g} min, an argument",
        ),
        (
            "confirmation",
            f"{confirming:.1f} h",
            f"{candidates} candidates x {builds} builds x {engine_minutes:g} min",
        ),
    ]
    whole = passes + scoring + latency + confirming
    raced = whole - (1 - race_passes) * (passes + scoring) + deciding
    rows += [
        (
            "decisions of a race",
            f"{deciding:.1f} h of CPU",
            f"{Rules().resamples} resamples, all {size:,} at every stage, timed here",
        ),
        (
            "**whole search, exhaustive**",
            f"**{whole:.0f} h**",
            f"sum; {PUBLISHED_HOURS / whole:,.0f} times less than published",
        ),
        (
            "**whole search, race**",
            f"**{raced:.0f} h**",
            f"{race_passes:.0%} of passes and evaluations, and the decisions",
        ),
    ]
    table = "\n".join(f"| {name} | {figure} | {origin} |" for name, figure, origin in rows)
    return f"""# What a search of the paper's space would take on a T4

A projection, not a measurement: no T4 was at hand. \
`python -m benchmarks.studies.search_projection` prints it; `python -m
rfdetr_repro.search --plan` measures the passes of your own supernet on your own card instead. \
The published search took about
{PUBLISHED_HOURS:,} hours of a T4 for {size:,} configurations.

| what | figure | from |
|---|---|---|
{table}

The passes are exact: what is shared is the backbone of configurations that differ in decoder \
layers and queries only, and the
first layers of a deeper decoder. Scoring runs on other cores during the passes \
and is counted all the same.
The race's share of passes and evaluations is what benchmarks/studies/race.py prints; \
its decisions are counted as if nobody left.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes or prints the projection."""
    parser = argparse.ArgumentParser("benchmarks/studies/search_projection.py", description=__doc__)
    parser.add_argument(
        "--race-passes", type=float, default=0.35, help="share of the passes that a race makes"
    )
    parser.add_argument(
        "--engine-minutes",
        type=float,
        default=6.0,
        help="build and short protocol of one TensorRT engine",
    )
    parser.add_argument("--engines", type=int, default=120, help="measured for the latency model")
    parser.add_argument(
        "--candidates", type=int, default=30, help="configurations confirmed by the full protocol"
    )
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument(
        "--evaluation-seconds",
        type=float,
        help="of one COCO evaluation, timed on a quiet machine before",
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    text = page(args)
    if args.out:
        write_atomic(args.out, text)
    print(text)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
