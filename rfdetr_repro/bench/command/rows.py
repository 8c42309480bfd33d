"""Rows from the command's files and names: artifacts, adopted or built where needed, with distinct
names.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from rfdetr_repro.data.source import source_of
from rfdetr_repro.export.artifact import MODULE, has_manifest
from rfdetr_repro.paper.campaigns import campaign_models
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.model_source import FAMILY, SHIPPED, ModelSource, size_named
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.ranges import plain_name

from .arguments import GRAPHS
from .named_inputs import files_of, models_of, names, split_names
from .precisions import in_precision, precisions
from .runtimes import backends_of, first_backend

if TYPE_CHECKING:
    from rfdetr_repro.bench.cells import Row
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.export.adopt.adoption import Picture
    from rfdetr_repro.export.artifact import Artifact

log = logging.getLogger(__name__)

Failures = dict[str, Exception]


def artifacts_of(
    args: argparse.Namespace, splits: Sequence[CocoSplit]
) -> tuple[list[Artifact], Failures]:
    """Every requested artifact in each requested precision, and the errors of those that could not
    be made.

    The error of a single artifact is raised.
    """
    wanted: dict[str, Callable[[], Artifact]] = {}
    targets: dict[Path, str] = {}
    files, named = _files_and_names(args)
    for given, path in files:
        file = f"{plain_name(given, 'the name')}.onnx" if given else Path(path).name
        target = Path(args.out).parent / "adopted" / file
        key = given or path
        if key in wanted or (target in targets and not has_manifest(path)):
            raise InputError(
                f"two models have the name {Path(file).stem!r}: {targets[target]} and {path}",
                hint="rename one of the files, or give each a name: --model NAME=FILE",
            )
        targets[target] = path
        wanted[key] = partial(_file, args, path, target, splits, given)
    weights = dict(models_of(args))
    for name in dict.fromkeys([*named, *model_names(args)]):
        for batch in args.batch:
            key = name if args.batch == [1] else f"{name}, batch {batch}"
            wanted[key] = partial(_model, args, name, weights.get(name), splits, batch)
    found: list[Artifact] = []
    failures: Failures = {}
    for name, get in wanted.items():
        try:
            artifact = get()
        except (InputError, StatedFailure) as error:
            if len(wanted) == 1:
                raise
            failures[name] = error
            continue
        for precision in precisions(args) or [artifact.manifest.precision]:
            try:
                found.append(in_precision(artifact, precision, args, splits))
            except (InputError, StatedFailure) as error:
                failures[f"{artifact.manifest.model.name} {precision}"] = error
    return found, failures


def _files_and_names(
    args: argparse.Namespace,
) -> tuple[list[tuple[str | None, str]], list[str]]:
    """What ``--model`` lists: files and run folders with the names that they are given, and names
    of models to build.
    """
    files: list[tuple[str | None, str]] = []
    named: list[str] = []
    for given, text in files_of(args):
        size = size_named(text)
        if given or size in SHIPPED or (size is None and Path(text).exists()):
            files.append((given, text))
        elif size is not None:
            named.append(f"{FAMILY}{size}")
        elif _models().known_name(text) in _models().model_names():
            named.append(text)
        else:
            files.append((None, text))  # which does not exist
    return files, named


def model_names(args: argparse.Namespace) -> list[str]:
    """The names in --models; for a campaign without files or names, the models of its table that
    can be built on this machine.
    """
    given = names(args)
    if args.campaign is None or given or args.onnx:
        return given
    found, missing = campaign_models(args.campaign, _models().model_names())
    if missing:
        log.info(
            f"these models cannot be built on this machine: {', '.join(missing)}; give their files "
            f"with --model"
        )
    return found


def with_batches(
    artifacts: Sequence[Artifact], args: argparse.Namespace, failures: Failures
) -> list[Artifact]:
    """The artifacts that take one of the requested batches; a batch that a given file does not take
    becomes a failure, and the only failure of a single file is raised.
    """
    kept = []
    built = Path(args.out).parent / "models"
    for artifact in artifacts:
        manifest = artifact.manifest
        missing = [batch for batch in args.batch if not manifest.takes(batch)]
        if len(missing) < len(args.batch):
            kept.append(artifact)
        # a model by name has a file of its own for every batch
        if artifact.path.parent == built:
            continue
        for batch in missing:
            failures[f"{_title(artifact)}, batch {batch}"] = InputError(
                f"the file takes {_images(manifest.images_per_run)} at once, not {batch}",
                artifact.path,
                _hint_of_batch(artifact),
            )
    if not kept and len(failures) == 1:
        raise next(iter(failures.values()))
    return kept


def _images(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"


def _hint_of_batch(artifact: Artifact) -> str:
    if artifact.manifest.adoption:
        return "an adopted file takes one image at a time; leave --batch out"
    return "export the model with --batch dynamic"


def rows_of(
    artifacts: Sequence[Artifact],
    splits: Sequence[CocoSplit],
    args: argparse.Namespace,
    threads: int = Protocol.threads,
) -> dict[str, Row]:
    """Rows by printed name, a row for every runtime; ``threads``: of the CPU runtimes.

    Raises :class:`InputError` for two files with the same name and precision, whose Records would
    replace each other.
    """
    from rfdetr_repro.bench.cells import Row

    rows: dict[str, Row] = {}
    titles = [_title(artifact) for artifact in artifacts]
    stems = [
        f"{title}, batch {artifact.manifest.batch}"
        if titles.count(title) > 1 and artifact.manifest.batch != 1
        else title
        for title, artifact in zip(titles, artifacts, strict=True)
    ]
    graphs = GRAPHS[args.cuda_graph]
    backends = backends_of(args)
    for artifact, name in zip(artifacts, stems, strict=True):
        label = f"{name} {artifact.manifest.precision}" if stems.count(name) > 1 else name
        trained = artifact.manifest.model.weights != "random"
        if splits and not trained:
            log.info(f"{label} has random weights, so only latency is measured")
        for backend, graph in itertools.product(backends, graphs):
            row = label if len(backends) == 1 else f"{label} {backend}"
            if len(graphs) > 1:
                row += " CUDA graph" if graph else " launches"
            if row in rows:
                raise InputError(
                    f"two models have the name {label!r}: {rows[row].artifact.path} and "
                    f"{artifact.path}",
                    hint="rename one of the files",
                )
            rows[row] = Row(
                artifact,
                _opener(artifact, args, graph, threads, backend),
                tuple(splits) if trained else (),
            )
    return rows


def _title(artifact: Artifact) -> str:
    """Name with size, because the paper's families share one name across sizes."""
    model = artifact.manifest.model
    return " ".join(filter(None, (model.name, model.size)))


def read_data(args: argparse.Namespace) -> list[CocoSplit]:
    """The splits of the data, or none; prints their contents.

    Raises :class:`InputError` for a split without annotations, which cannot be scored.
    """
    names = split_names(args.split)
    args.data = source_of(args, tuple(names), needed=False)
    if args.data is None:
        return []
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.data.coco import has_split, read_split  # slow to load

    if "int8" in precisions(args) and not has_split(args.data, "train"):
        log.warning(
            "%s has no train split to calibrate on: models with trained weights will have no int8 "
            "row",
            args.data,
        )
    found = [read_split(args.data, name) for name in names]
    for split in found:
        if not len(split.table.ids):
            hint = "give a split with annotations, or leave --data out and measure latency only"
            raise InputError(f"split {split.split!r} has no annotations", args.data, hint)
    print_census(found)
    return found


def _opener(
    artifact: Artifact,
    args: argparse.Namespace,
    graph: bool,
    threads: int,
    backend: str,
) -> Callable[[int], Any]:
    from rfdetr_repro.bench.gpu.device import uses_gpu
    from rfdetr_repro.runtime.backends import open_session

    def open_build(build: int) -> Any:
        if artifact.manifest.format == MODULE:
            if backend != "torch":
                name = _title(artifact)
                star = artifact.manifest.packages["star"]
                raise InputError(
                    f"{name} can be run in PyTorch only: {star}",
                    hint="measure the model with --backend torch",
                )
            if args.cuda_graph != "off":
                raise InputError(
                    f"{_title(artifact)} cannot be captured as a CUDA graph",
                    hint="leave --cuda-graph out",
                )
            from rfdetr_repro.bench.starred import ModuleSession

            return ModuleSession(artifact, threads)
        options: dict[str, Any] = {"cuda_graph": True} if graph else {}
        if args.device_api is not None:
            options["device_api"] = args.device_api
        if build and uses_gpu(backend):
            options["build"] = build
        name = with_graph_setting(args, backend, graph)
        return open_session(artifact, name, threads=threads, **options)

    return open_build


def with_graph_setting(args: argparse.Namespace, backend: str, graph: bool) -> str:
    """The backend for a CUDA graph setting: ``torch`` with and without a CUDA graph are two
    backends, and with ``both`` either name stands for the pair.
    """
    if args.cuda_graph == "both" and backend in ("torch", "torch-graph"):
        return "torch-graph" if graph else "torch"
    return backend


def _file(
    args: argparse.Namespace,
    text: str,
    target: Path,
    splits: Sequence[CocoSplit],
    name: str | None = None,
) -> Artifact:
    """The artifact of the model that ``text`` names, called ``name`` where that is given; a file
    without a manifest is adopted into ``adopted/`` next to the store, with a printed notice.
    """
    size = size_named(text)
    source = ModelSource(text, size) if size else ModelSource(text, path=Path(text))
    artifact = _own_or_adopted(args, source, target, splits)
    if name is None:
        return artifact
    model = replace(artifact.manifest.model, name=name)
    return replace(artifact, manifest=replace(artifact.manifest, model=model))


def _own_or_adopted(
    args: argparse.Namespace, source: ModelSource, target: Path, splits: Sequence[CocoSplit]
) -> Artifact:
    from rfdetr_repro.export.artifact import load_artifact, write_artifact
    from rfdetr_repro.export.deployed import FileFacts, deployed, file_of_run
    from rfdetr_repro.export.trial import tried

    if source.kind == "run":
        path, why = file_of_run(source.place)
        log.info(f"{source}: {why}")
        return _own_or_adopted(args, ModelSource.at(path), target.with_name(path.name), splits)
    if source.size is None and not source.place.exists():
        raise InputError(
            "the file does not exist",
            source.place,
            "give an ONNX file, such as one that python -m rfdetr_repro.export wrote",
        )
    if source.kind in ("size", "weights"):
        to = "torch" if first_backend(args).startswith("torch") else "onnx"
        facts = FileFacts(labels=labels_given(args.labels))
        return deployed(source, target.parent.parent / "models", to=to, facts=facts)
    path = source.place
    if has_manifest(path):
        return tried(load_artifact(path))
    # nothing is kept of a file that cannot be run
    with TemporaryDirectory(prefix="rfdetr_repro_") as scratch:
        made = _adopted(args, path, Path(scratch, target.name), splits)
        artifact = write_artifact(target, made.path.read_bytes(), made.manifest)
    from rfdetr_repro.export.adopt.adoption import described

    log.info(
        f"{path} has no manifest: adopted as {target}: {described(artifact.manifest.adoption)}"
    )
    if "injected_candidates" in artifact.manifest.packages:
        log.info(f"  injected candidates: {artifact.manifest.packages['injected_candidates']}")
    return artifact


def _adopted(
    args: argparse.Namespace, path: Path, target: Path, splits: Sequence[CocoSplit]
) -> Artifact:
    """Adopts the file at ``path`` as ``target`` and runs it once on the backend; engines are built
    from the adopted file.
    """
    from rfdetr_repro.export.adopt.adoption import adopt
    from rfdetr_repro.export.onnx.nms import Nms
    from rfdetr_repro.export.trial import tried

    backend = first_backend(args)
    made = adopt(
        path,
        target,
        categories=_categories(splits),
        form=args.form,
        normalise=args.normalise,
        weights="random" if args.random_weights else "trained",
        resize=args.resize,
        antialias=args.antialias,
        boxes=args.boxes,
        classes=args.classes,
        shape=args.shape,
        nms=Nms(
            args.nms_score,
            args.nms_iou,
            args.nms_candidates,
            multi_label=args.multi_label,
            inject=args.inject,
            kind=suppression_of(backend),
        ),
        pictures=_pictures(splits),
    )
    tried(made)
    if not backend.startswith("tensorrt"):
        height, width = made.manifest.input_hw
        graph = GRAPHS[args.cuda_graph][0]
        _opener(made, args, graph, args.threads[0], backend)(0).run(
            np.zeros((1, 3, height, width), dtype=np.float32)
        )
    return made


def suppression_of(backend: str) -> str:
    """The kind of suppression for a backend: CPU runtimes have a fast operator, engines need fixed
    sizes.
    """
    return "operator" if backend in ("onnxruntime", "openvino") else "static"


def _pictures(splits: Sequence[CocoSplit]) -> list[Callable[[], Picture]]:
    """Functions that load the first images of the first split, on which an adopted file is run."""
    from rfdetr_repro.export.deployed import facts_of_data

    return facts_of_data(splits[0])[1] if splits else []


def _models() -> Any:
    """The module of models by name, which loads PyTorch."""
    return importlib.import_module("rfdetr_repro.bench.models")


def _categories(splits: Sequence[CocoSplit]) -> Any:
    from rfdetr_repro.export.deployed import facts_of_data

    return facts_of_data(splits[0])[0] if splits else None


def _model(
    args: argparse.Namespace,
    name: str,
    weights: Path | None,
    splits: Sequence[CocoSplit],
    batch: int = 1,
) -> Artifact:
    folder = Path(args.out).parent / "models"
    backend = first_backend(args)
    how = {"to": "torch" if backend.startswith("torch") else "onnx", "inject": args.inject}
    if suppression_of(backend) == "static":
        how["suppression"] = "static"
    if batch != 1:
        how["to"] = f"{how['to']} {batch}"
    if weights is not None:  # a foreign checkpoint knows classes by number only
        how |= {"checkpoint": weights, "categories": _categories(splits)}
        # the other detectors use the classes of the data
        ours = name.startswith("rfdetr-") or len(names(args)) == 1
        how |= {"labels": labels_given(args.labels) if ours else None}
    artifact: Artifact = _models().model_artifact(name, folder, **how)
    settings = {
        key: artifact.manifest.packages[key]
        for key in ("nms", "injected_candidates")
        if key in artifact.manifest.packages
    }
    if settings:
        log.info(
            f"{name}: "
            + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
        )
    return artifact
