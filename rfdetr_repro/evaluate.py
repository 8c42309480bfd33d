"""Evaluates a model by the COCO metrics:

python -m rfdetr_repro.evaluate --model model.onnx --data DIR --split val --json metrics.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import (
    MOST_THREADS,
    ArgumentParser,
    add_architecture,
    add_file_facts,
    add_model,
    folder_name,
    output_file,
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
from rfdetr_repro.spec.unfinished import temporary_folder

log = logging.getLogger(__name__)

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
    "boxes": {...}, "masks": {...} or None, "why_no_masks"}; the last is a sentence if the model's
    masks cannot be measured on this split, else "". Raises :class:`InputError` for bad input.
    """
    source = model if isinstance(model, ModelSource) else source_at(model)
    if source.kind in ("onnx", "engine", "torch"):
        _refuse_random(source)
    # loads slowly, so the file is checked first
    from rfdetr_repro.bench.accuracy import accuracy_of
    from rfdetr_repro.data.census import check_usable, print_census
    from rfdetr_repro.data.coco import read_split
    from rfdetr_repro.export.deployed import FileFacts, backend_of_file, deployed, facts_of_data
    from rfdetr_repro.runtime.backends import open_session

    chosen = read_split(data_dir, split)
    check_usable([chosen]) if quiet else print_census([chosen])
    progress: Any = iter if quiet else _progress_bar
    if not quiet:
        logs.show_unless_configured()
    facts = FileFacts(**dict(stated or {}), data=facts_of_data(chosen))
    to = "torch" if (backend or "").startswith("torch") else "onnx"
    with temporary_folder() as folder:
        artifact = deployed(source, folder, to=to, facts=facts)
        session = open_session(artifact, backend or backend_of_file(artifact), threads=threads)
    log.info(describe(artifact.manifest.resize))
    boxes, masks = accuracy_of(session, chosen, max_dets=max_dets, progress=progress)
    return {
        "artifact": artifact.sha256,
        "runtime": session.artifact_id.runtime,
        "model": artifact.manifest.model.name,
        "data": chosen.name,
        "split": chosen.split,
        "num_images": len(chosen),
        "data_sha256": chosen.sha256,
        "boxes": dataclasses.asdict(boxes),
        "masks": None if masks is None else dataclasses.asdict(masks),
        "why_no_masks": chosen.why_no_mask_ap()
        if artifact.manifest.model.task == "segment"
        else "",
    }


def _refuse_random(source: ModelSource) -> None:
    from rfdetr_repro.export.artifact import load_artifact, manifest_path

    assert source.path is not None
    known = os.path.lexists(manifest_path(source.path)) or source.kind != "onnx"
    if known and load_artifact(source.path).manifest.model.weights == "random":
        raise InputError(
            "a model with random weights has no accuracy", source.path, "train it first"
        )


def _progress_bar(indices: Iterable[int]) -> Iterable[int]:
    bar: Iterable[int] = logs.progress_bar(indices, "evaluate", "image")
    return bar


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.evaluate",
        description=("Computes the COCO metrics of a model on one split of a data set."),
        examples=("evaluate --model model.onnx --data DIR --split val --json metrics.json",),
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
    settings = dict(backend=args.backend, threads=args.threads, max_dets=args.max_dets)
    stated = dict(
        size=args.size,
        labels=labels_given(args.labels),
        arch=None if args.arch is None else parse_arch(args.arch),
        shape=args.shape,
    )
    metrics = evaluate(args.model, args.data, args.split, **settings, stated=stated, quiet=False)
    where = f"{metrics['data']}/{metrics['split']}, {metrics['num_images']} images"
    print(f"{metrics['model']} ({metrics['artifact'][:12]}, {metrics['runtime']}) on {where}")
    for kind in ("boxes", "masks"):
        if metrics[kind] is not None:
            print(
                f"{kind:6}"
                + "".join(
                    f"  {label} {percent(metrics[kind][name], '-')}"
                    for name, label in COCO_METRICS_IN_WORDS.items()
                )
            )
            print(f"{'':6}  {interval_sentence(metrics[kind])}")
            if metrics[kind]["detections"] == 0:
                print(f"{'':6}  {NO_DETECTIONS}")
    if metrics["why_no_masks"]:
        print(f"masks   not measured: {metrics['why_no_masks']}")
    if args.json:
        write_atomic(args.json, json.dumps(metrics, indent=1) + "\n")


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
