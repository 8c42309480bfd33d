"""COCO evaluators against each other on one set of detections: seconds, and whether their twelve
numbers are pycocotools'.

    python -m benchmarks.studies.coco_evaluators
    python -m benchmarks.studies.coco_evaluators --images 100 --large 0

Without options: equality and times at 200 images, then 5,000 x 300 without pycocotools.

What is timed: from a model's detections, arrays in memory, to the twelve numbers, with the ground
truth loaded before (stated apart); each library by the quickest entry its manual offers, two
threads. CPU seconds are printed too, because a busy machine prolongs the wall time. Of
faster-coco-eval, hotcoco, vernier and ultrafast-pycocotools those not installed are named and left
out. Exit code 1 when the evaluator of this package differs from pycocotools.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "2")  # read once by the Rust libraries

import numpy as np

from benchmarks.studies.coco_data import make_detections, make_split
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main

Numbers = Sequence[float]
Evaluate = Callable[[list[ImageDetections], str, int], Numbers]
OURS = "rfdetr_repro"
ORACLE = "pycocotools"
TARGET_S = 45.0


def twelve(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """AP, AP50, AP75, APs, APm, APl, AR@1, AR@10, AR, ARs, ARm, ARl of COCO's arrays (T, R, K, A,
    M) and (T, K, A, M).
    """
    best = precision[..., -1]
    cuts = [
        best[..., 0],
        best[0, ..., 0],
        best[5, ..., 0],
        *(best[..., area] for area in (1, 2, 3)),
    ]
    cuts += [recall[..., 0, limit] for limit in range(3)] + [
        recall[..., area, -1] for area in (1, 2, 3)
    ]
    return [float(cut[cut > -1].mean()) if (cut > -1).any() else -1.0 for cut in cuts]


def rows(split: CocoSplit, detections: list[ImageDetections]) -> np.ndarray:
    """float64 (n, 7): image id, x, y, w, h, score, category id."""
    ids = np.repeat(
        [image.image_id for image in detections], [len(image.scores) for image in detections]
    )
    boxes = np.concatenate([image.boxes_xyxy for image in detections]).astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    labels = np.array(split.classes.category_ids)[
        np.concatenate([image.labels for image in detections])
    ]
    return np.column_stack(
        [ids, boxes, np.concatenate([image.scores for image in detections]), labels]
    ).astype(np.float64)


def results(
    split: CocoSplit, detections: list[ImageDetections], masks: bool
) -> list[dict[str, Any]]:
    """COCO's list of results; with masks no boxes, because the area of a mask counts then."""
    columns = rows(split, detections)
    found = []
    rles = (
        [rle for image in detections for rle in image.masks_rle or ()]
        if masks
        else [None] * len(columns)
    )
    for (image_id, *box, score, category_id), rle in zip(columns.tolist(), rles, strict=True):
        shape = {"segmentation": rle} if masks else {"bbox": box}
        found.append(
            {"image_id": int(image_id), "category_id": int(category_id), "score": score, **shape}
        )
    return found


def drop_in(coco: Any, evaluation: Any, split: CocoSplit, columns: bool = False) -> Evaluate:
    """A library with pycocotools' classes.

    ``columns``: it takes boxes as rows of numbers (masks need COCO's list).
    """
    truth = coco(split.ground_truth())

    def evaluate(detections: list[ImageDetections], kind: str, max_dets: int) -> Numbers:
        masks = kind == "segm"
        found = truth.loadRes(
            rows(split, detections) if columns and not masks else results(split, detections, masks)
        )
        run = evaluation(truth, found, kind)
        run.params.maxDets = [1, 10, max_dets]
        run.evaluate()
        run.accumulate()
        return twelve(run.eval["precision"], run.eval["recall"])

    return evaluate


def of_pycocotools(split: CocoSplit) -> Evaluate:
    """Evaluates with pycocotools."""
    from pycocotools import coco, cocoeval

    def load(document: dict[str, Any]) -> Any:
        truth = coco.COCO()
        truth.dataset = document
        truth.createIndex()
        return truth

    return drop_in(load, cocoeval.COCOeval, split)


def of_faster(split: CocoSplit) -> Evaluate:
    """Evaluates with faster-coco-eval."""
    import faster_coco_eval

    return drop_in(
        faster_coco_eval.COCO,
        partial(faster_coco_eval.COCOeval_faster, print_function=str),
        split,
        columns=True,
    )


def of_hotcoco(split: CocoSplit) -> Evaluate:
    """Evaluates with hotcoco."""
    hotcoco = import_module("hotcoco")
    return drop_in(hotcoco.COCO, hotcoco.COCOeval, split, columns=True)


def of_ultrafast(split: CocoSplit) -> Evaluate:
    """Evaluates with ultrafast-pycocotools."""
    ultrafast = import_module("ultrafast_pycocotools")
    return drop_in(
        ultrafast.COCO, partial(ultrafast.COCOeval, print_function=str), split, columns=True
    )


def of_vernier(split: CocoSplit) -> Evaluate:
    """Evaluates with vernier."""
    import json

    vernier = import_module("vernier.instance")
    truth = vernier.CocoDataset.from_json(json.dumps(split.ground_truth()).encode())
    category_ids = np.array(split.classes.category_ids)

    def evaluate(detections: list[ImageDetections], kind: str, max_dets: int) -> Numbers:
        found: Any = rows(split, detections)
        if kind == "segm":
            ends = np.cumsum([len(image.scores) for image in detections])[:-1]
            found = [
                {
                    "image_id": image.image_id,
                    "boxes": np.ascontiguousarray(part[:, 1:5]),
                    "scores": part[:, 5].copy(),
                    "labels": category_ids[image.labels],
                    "rles": image.masks_rle,
                }
                for image, part in zip(detections, np.split(found, ends), strict=True)
            ]
        grid = vernier.evaluate_segm_grid if kind == "segm" else vernier.evaluate_bbox_grid
        area = {"dt_area": "mask"} if kind == "segm" else {}
        options = dict(
            parity_mode="strict", max_dets_per_image=max_dets, use_cats=True, num_threads=2, **area
        )
        arrays = grid(truth, found, **options).accumulate([1, 10, max_dets])
        return twelve(arrays.precision, arrays.recall)

    return evaluate


def of_ours(split: CocoSplit) -> Evaluate:
    """Evaluates with this project's evaluator."""
    evaluators: dict[int, CocoEvaluator] = {}

    def evaluate(detections: list[ImageDetections], kind: str, max_dets: int) -> Numbers:
        evaluator = evaluators.setdefault(max_dets, CocoEvaluator(split, max_dets))
        return [
            -1.0 if value is None else value
            for value in evaluator.twelve(detections, kind).values()
        ]

    return evaluate


EVALUATORS: dict[str, tuple[str, Callable[[CocoSplit], Evaluate]]] = {  # name: (module, maker)
    ORACLE: ("pycocotools", of_pycocotools),
    "faster-coco-eval": ("faster_coco_eval", of_faster),
    "hotcoco": ("hotcoco", of_hotcoco),
    "vernier": ("vernier", of_vernier),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", of_ultrafast),
    OURS: ("rfdetr_repro", of_ours),
}


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall s, CPU s of all threads); what it prints is dropped."""
    wall = time.perf_counter()
    cpu = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def compare(
    names: Sequence[str],
    split: CocoSplit,
    detections: list[ImageDetections],
    kind: str,
    max_dets: int,
) -> set[str]:
    """Prints a line for each evaluator; returns those whose numbers are not the oracle's."""
    print(
        f"\n{kind}, {len(split)} images x {max(len(image.scores) for image in detections)} "
        f"detections, max_dets {max_dets}"
    )
    print(
        f"{'evaluator':<22} {'load s':>7} {'wall s':>8} {'CPU s':>8} {'times':>7}  AP        "
        f"largest difference"
    )
    wrong = set()
    known = {}
    for name in names:
        evaluate, load_s, _ = timed(partial(EVALUATORS[name][1], split))
        numbers, wall_s, cpu_s = timed(partial(evaluate, detections, kind, max_dets))
        known[name] = numbers, cpu_s
        expected, base_s = known.get(ORACLE, (None, None))
        note = ""
        ratio = "" if base_s is None else f"{base_s / cpu_s:.1f}"
        if expected is not None:
            largest = max(abs(a - b) for a, b in zip(numbers, expected, strict=False))
            note = f"{largest:.1e} of {len(numbers)}"
            wrong |= {name} if largest > 1e-12 else set()
        print(
            f"{name:<22} {load_s:7.2f} {wall_s:8.2f} {cpu_s:8.2f} {ratio:>7}  {numbers[0]:.6f}  "
            f"{note}",
            flush=True,
        )
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table of times and differences; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=whole(0, 10**6),
        default=200,
        help="of the comparison with pycocotools; 0: none",
    )
    parser.add_argument(
        "--large",
        type=whole(0, 10**6),
        default=5000,
        help="images of the second run, without pycocotools; 0: none",
    )
    parser.add_argument(
        "--per-image", type=whole(1, 10**4), default=300, help="detections of an image"
    )
    parser.add_argument(
        "--max-dets",
        type=whole(10, 10**4),
        nargs="+",
        default=[100, 300],
        help="per image and class, at least the 10 of AR@10",
    )
    parser.add_argument("--kinds", nargs="+", choices=["bbox", "segm"], default=["bbox", "segm"])
    parser.add_argument(
        "--only", nargs="+", choices=EVALUATORS, default=list(EVALUATORS), metavar="NAME"
    )
    args = parser.parse_args(argv)
    if 1 in (args.images, args.large):
        raise InputError(
            "the first image has no detections", "--images, --large", "give 0 or at least 2 images"
        )
    there = [name for name in args.only if find_spec(EVALUATORS[name][0])]
    for name in set(args.only) - set(there):
        print(f"{name}: not installed")
    wrong: set[str] = set()
    for images, names in (
        (args.images, there),
        (args.large, [name for name in there if name != ORACLE]),
    ):
        if not images:
            continue
        with tempfile.TemporaryDirectory() as folder:
            split = make_split(Path(folder), images)
        detections = make_detections(split, args.per_image, "segm" in args.kinds)
        for kind in args.kinds:
            for max_dets in args.max_dets:
                wrong |= compare(names, split, detections, kind, max_dets)
    print(f"\nnot pycocotools' numbers: {', '.join(sorted(wrong)) or 'none'}")
    return 1 if OURS in wrong else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
