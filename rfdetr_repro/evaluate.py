"""Evaluates a model by the COCO metrics, and shows what it does well and badly:

python -m rfdetr_repro.evaluate --model model.onnx --data DIR --split val --out evaluation
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.evaluation.tiles_command import add_tiles, tiling_of
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import (
    MOST_THREADS,
    ArgumentParser,
    folder_name,
    number,
    output_file,
    output_folder,
    whole,
)
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.metrics import COCO_METRICS_IN_WORDS, percent
from rfdetr_repro.spec.model_source import ModelSource, source_at
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.spec.protocol import BACKENDS
from rfdetr_repro.spec.resize_rules import describe
from rfdetr_repro.spec.shared_arguments import add_architecture, add_file_facts, add_model
from rfdetr_repro.spec.unfinished import temporary_folder

if TYPE_CHECKING:
    from rfdetr_repro.evaluation.tiles import Tiling
    from rfdetr_repro.reproduce.evaluation import Evaluation

log = logging.getLogger(__name__)

WIDTH = 80  # columns of printed lines
INDENT = " " * 8  # of lines that belong to the line of boxes or masks
MOST_DETECTIONS = 10**6  # largest value of COCO's maxDets, per image and class
NO_DETECTIONS = (
    "The model detected nothing on any image, so this AP does not measure how well the model "
    "detects. Check the export, the score threshold and the class names."
)


def evaluate(
    model: str | Path | ModelSource,
    data_dir: str | os.PathLike[str],
    split: str = "val",
    *,
    backend: str | None = None,
    threads: int = 2,
    max_dets: int = 100,
    quiet: bool = True,
    stated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a model on a split of a data set. Metrics are fractions in 0..1, or None where
    there is no ground truth.

    ``model``: an artifact, weights, an ONNX file of another program, a run folder or a size with
    weights; what is no deployed file is exported or adopted for the evaluation. ``backend``: a
    runtime, None for the file's own. ``stated``: what the file does not state, by the arguments of
    :class:`~rfdetr_repro.export.deployed.FileFacts`.

    ``ap_low`` and ``ap_high`` of boxes and masks are the 95 % interval of AP over other images of
    the same kind.

    Returns {"artifact": SHA-256, "runtime", "model", "data", "split", "num_images", "data_sha256",
    "boxes": {...}, "masks": {...} or None, "why_no_masks", "diagnosis"}; ``why_no_masks`` is a
    sentence if the model's masks cannot be measured on this split, else ""; ``diagnosis`` holds AP
    of classes and sizes, curves, the best threshold, the confusion matrix and the worst images, of
    "boxes" and "masks" (:mod:`rfdetr_repro.evaluation.diagnosis` has the definitions). Raises
    :class:`InputError` for bad input.
    """
    settings = Settings(backend, threads, max_dets, quiet, stated=stated)
    return evaluated(model, data_dir, split, settings).metrics


@dataclass(frozen=True)
class Settings:
    """How a model is evaluated: see the arguments of the command.

    ``threshold``: a score in 0..1, for precision, recall, F1 and the confusion matrix;
    ``threshold_split``: split on which the best is chosen; neither: chosen on the evaluated split.
    ``tiling``: look at the images in tiles.
    """

    backend: str | None = None
    threads: int = 2
    max_dets: int = 100
    quiet: bool = True
    threshold: float | None = None
    threshold_split: str | None = None
    stated: Mapping[str, Any] | None = None
    tiling: Tiling | None = None


def evaluated(
    model: str | Path | ModelSource,
    data_dir: str | os.PathLike[str],
    split: str = "val",
    settings: Settings = Settings(),
) -> Evaluation:
    """:func:`evaluate` with the diagnoses, which can be drawn."""
    source = model if isinstance(model, ModelSource) else source_at(model)
    if source.kind in ("onnx", "engine", "torch"):
        _refuse_random(source)
    # loads slowly, so the file is checked first
    from rfdetr_repro.data.census import check_usable, print_census
    from rfdetr_repro.data.coco import read_split
    from rfdetr_repro.export.deployed import FileFacts, backend_of_file, deployed, facts_of_data
    from rfdetr_repro.reproduce.evaluation import Asked, evaluation_of
    from rfdetr_repro.runtime.backends import open_session

    chosen = read_split(data_dir, split)
    splits = [chosen]
    threshold: Any = settings.threshold
    if settings.threshold_split not in (None, split):
        threshold = read_split(data_dir, str(settings.threshold_split), chosen.classes)
        splits.append(threshold)
    check_usable(splits) if settings.quiet else print_census(splits)
    progress: Any = iter if settings.quiet else _progress_bar
    if not settings.quiet:
        logs.show_unless_configured()
    facts = FileFacts(**dict(settings.stated or {}), data=facts_of_data(chosen))
    backend = settings.backend
    to = "torch" if (backend or "").startswith("torch") else "onnx"
    with temporary_folder() as folder:
        artifact = deployed(source, folder, to=to, facts=facts)
        backend = backend or backend_of_file(artifact)
        session = open_session(artifact, backend, threads=settings.threads)
    log.info(describe(artifact.manifest.resize))
    asked = Asked(threshold, settings.max_dets, progress, settings.tiling)
    return evaluation_of(session, chosen, asked)


def _refuse_random(source: ModelSource) -> None:
    from rfdetr_repro.export.artifact import has_manifest, load_artifact

    path = source.place
    known = has_manifest(path) or source.kind != "onnx"
    if known and load_artifact(path).manifest.model.weights == "random":
        raise InputError(
            "a model with random weights has no accuracy", path, "train the model first"
        )


def _progress_bar(indices: Iterable[int]) -> Iterable[int]:
    bar: Iterable[int] = logs.progress_bar(indices, "evaluate", "image")
    return bar


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.evaluate",
        description=(
            "Computes the COCO metrics of a model on one split of a data set, by class and by "
            "size of object, with precision, recall and F1 at the best threshold; with --out also "
            "curves, a confusion matrix and the worst images."
        ),
        examples=(
            "evaluate --model model.onnx --data DIR --split val --out evaluation",
            "evaluate --model model.onnx --data DIR --split test --threshold-split val",
        ),
    )
    add_model(arguments, "--artifact")
    add_file_facts(arguments)
    add_architecture(arguments)
    add_data_arguments(arguments, "the --split is evaluated", ("evaluated",))
    arguments.add_argument(
        "--split",
        default="val",
        type=folder_name,
        help="split of the data to evaluate (default: val)",
    )
    arguments.add_argument(
        "--backend",
        choices=BACKENDS,
        help="runtime that runs the model (default: the runtime of an engine, PyTorch for its "
        "artifacts, ONNX Runtime for ONNX files and for weights, which are exported first)",
    )
    arguments.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        default=2,
        help="number of threads of the runtime (default: 2)",
    )
    arguments.add_argument(
        "--max-dets",
        type=whole(1, MOST_DETECTIONS),
        default=100,
        help="number of detections per image and class that count (COCO's maxDets)",
    )
    add_tiles(arguments)
    threshold = arguments.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold",
        type=number(0, 1),
        help="score, in 0..1, from which detections count in precision, recall, F1, the confusion "
        "matrix and the worst images (default: the score with the highest mean F1 on the evaluated "
        "split)",
    )
    threshold.add_argument(
        "--threshold-split",
        type=folder_name,
        metavar="SPLIT",
        help="another split of --data to choose that score on, such as val for --split test; a "
        "score that is chosen on the evaluated split flatters the model",
    )
    arguments.add_argument(
        "--out",
        type=output_folder,
        help="folder to write metrics.json, curves, the confusion matrix and the worst images to",
    )
    arguments.add_argument(
        "--json", type=output_file, help="JSON file to write the metrics to, as fractions"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the COCO metrics of the artifact that ``argv`` names."""
    args = parser().parse_args(argv)
    args.data = source_of(args, (args.split,))
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.runtime.backends import check_backend

    check_backend(args.backend or "onnxruntime")
    stated = dict(
        size=args.size,
        labels=labels_given(args.labels),
        arch=None if args.arch is None else parse_arch(args.arch),
        shape=args.shape,
    )
    settings = Settings(
        backend=args.backend,
        threads=args.threads,
        max_dets=args.max_dets,
        quiet=False,
        threshold=args.threshold,
        threshold_split=args.threshold_split,
        stated=stated,
        tiling=tiling_of(args),
    )
    found = evaluated(args.model, args.data, args.split, settings)
    print("\n".join(lines(found.metrics)))
    if args.json:
        write_atomic(args.json, json.dumps(found.metrics, indent=1) + "\n")
    if args.out:
        pictures = found.write(args.out)
        print(f"{len(pictures)} pictures and metrics.json in {args.out}")


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """What the command prints of the result of :func:`evaluate`."""
    from rfdetr_repro.tables.diagnosis import UNKNOWN_NOTE, class_table, size_table
    from rfdetr_repro.tables.format import render

    where = f"{metrics['data']}/{metrics['split']}, {metrics['num_images']} images"
    model = f"{metrics['model']} ({metrics['artifact'][:12]}, {metrics['runtime']})"
    found = _wrapped(f"{model} on {where}")
    for kind in ("boxes", "masks"):
        if metrics[kind] is not None:
            found += _wrapped(_numbers(kind, metrics[kind]))
            found += _wrapped(interval_sentence(metrics[kind]), first=INDENT)
            if metrics[kind]["detections"] == 0:
                found += _wrapped(NO_DETECTIONS, first=INDENT)
    if metrics["why_no_masks"]:
        found += _wrapped(f"masks   not measured: {metrics['why_no_masks']}")
    unknown = False
    for kind, diagnosis in metrics["diagnosis"].items():
        tables = [class_table(diagnosis, kind), size_table(diagnosis, kind)]
        found += ["", *render(tables, "text").rstrip("\n").split("\n")]
        found += _wrapped(diagnosis["threshold"]["says"], rest="")
        unknown |= any(row["ap"] is None for row in diagnosis["classes"] + diagnosis["sizes"])
        unknown |= any(row["precision"] is None for row in diagnosis["classes"])
    return found + (_wrapped(UNKNOWN_NOTE, rest="") if unknown else [])


def _numbers(kind: str, accuracy: Mapping[str, Any]) -> str:
    """The six COCO metrics of boxes or masks, in percent."""
    numbers = (
        f"{label} {percent(accuracy[name], '-')}".replace(" ", "\u00a0")
        for name, label in COCO_METRICS_IN_WORDS.items()
    )
    return f"{kind:6}  " + "  ".join(numbers)


def _wrapped(text: str, first: str = "", rest: str = INDENT) -> list[str]:
    """``text`` in lines of at most 80 columns; ``first`` and ``rest`` indent the lines."""
    whole = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in whole]


def interval_sentence(metrics: Mapping[str, Any]) -> str:
    """A sentence with the 95 % interval of AP of box or mask metrics, and its method."""
    from rfdetr_repro.records.ap_intervals import FEWEST

    resampled = metrics["resampled"]
    if resampled is None:
        return (
            f"The 95 % interval of AP is unknown, because it needs an AP and at least {FEWEST} "
            f"images."
        )
    low = percent(metrics["ap_low"], absent="-")
    high = percent(metrics["ap_high"], absent="-")
    how = (
        f"{resampled['resamples']} resamples of the {resampled['images']} images, seed "
        f"{resampled['seed']}"
    )
    return f"95 % interval of AP over other images of the same kind: {low} to {high} ({how})."


if __name__ == "__main__":
    raise SystemExit(run_main(main))
