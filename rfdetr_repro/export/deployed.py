"""The deployed file of a model, whatever names the model: an artifact as it is, an ONNX file of
another program after its adoption, weights after their export, a run folder by its best file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rfdetr_repro.records.pareto import metric
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.model_source import ENGINES, ModelSource, run_weights
from rfdetr_repro.spec.resize_rules import with_antialias

from .artifact import MODULE, Artifact, ArtifactMeta, has_manifest, load_artifact, manifest_path
from .trial import tried

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.model.checkpoints.native import ModelCard
    from rfdetr_repro.model.detector import Detector
    from rfdetr_repro.records.record import Record

    from .adopt.adoption import Categories, Picture

log = logging.getLogger(__name__)

CHOSEN = "best-*"  # what pick, search and reproduce call the file that a budget chose
_DEPLOYED = (".onnx", ".safetensors", *ENGINES)


class FileFacts:
    """What a command line states about a file that does not state it itself.

    ``size`` and ``labels``: of a checkpoint; ``arch`` and ``shape``: the architecture of weights to
    export; ``antialias``: how pictures are resized; ``wishes``: of an ONNX file of another program,
    by the fields of :class:`~rfdetr_repro.export.adopt.wishes.Wishes`; ``categories`` and
    ``pictures``: of the data that the model is used on, if there are any.
    """

    def __init__(
        self,
        size: str | None = None,
        labels: str | Sequence[str] | None = None,
        arch: Arch | None = None,
        shape: tuple[int, int] | None = None,
        antialias: bool | None = None,
        wishes: dict[str, Any] | None = None,
        data: tuple[Categories | None, Sequence[Callable[[], Picture]]] = (None, ()),
    ) -> None:
        """See the class for the arguments."""
        self.size = size
        self.labels = labels
        self.arch = arch
        self.shape = shape
        self.antialias = antialias
        self.wishes = dict(wishes or {})
        self.categories, self.pictures = data

    @property
    def of_weights(self) -> list[str]:
        """The arguments that only weights can follow, as typed."""
        return [
            f"--{name}"
            for name in ("size", "labels", "arch", "shape")
            if getattr(self, name) is not None
        ]


NO_FACTS = FileFacts()
LOOKED_AT = 16  # images of the data on which a file may be run before it is adopted


def facts_of_data(
    split: CocoSplit,
) -> tuple[Categories, list[Callable[[], Picture]]]:
    """The categories of a split, and functions that load its first images: what the adoption of an
    ONNX file looks at.
    """
    from .adopt.adoption import Categories, Picture

    def picture(index: int) -> Picture:
        sample = split.sample(index)
        ids = [split.classes.category_ids[label] for label in sample.labels]
        return Picture(sample.image, sample.boxes_xyxy, np.array(ids, dtype=np.int64))

    pictures = [partial(picture, index) for index in range(min(len(split), LOOKED_AT))]
    return Categories(split.classes.category_ids, split.classes.names), list(pictures)


def deployed(
    model: ModelSource, folder: str | Path, *, to: str = "onnx", facts: FileFacts = NO_FACTS
) -> Artifact:
    """The artifact of ``model``; files that have to be made are written to ``folder``.

    ``to``: "onnx" or "torch", the format of exported weights. Raises :class:`InputError` for a
    model that cannot be deployed.
    """
    kind = model.kind
    if kind == "run":
        if facts.of_weights:  # these ask for an export of the weights
            return _exported(model, Path(folder), to, facts)
        path, why = file_of_run(model.place)
        log.info(f"{model}: {why}")
        return deployed(ModelSource.at(path), folder, to=to, facts=facts)
    if kind in ("size", "weights"):
        return _exported(model, Path(folder), to, facts)
    path = model.place
    if kind == "onnx" and not has_manifest(path):
        return adopted(path, Path(folder), facts)
    if facts.of_weights:
        raise InputError(
            f"{' and '.join(facts.of_weights)} cannot be changed in a deployed file",
            path,
            "leave the arguments out, or give the checkpoint",
        )
    found = load_artifact(path)
    return tried(found) if kind == "onnx" else found


def file_of_run(folder: Path) -> tuple[Path, str]:
    """The file that a run folder stands for where a deployed model is needed, and a sentence that
    says which file it is and why.

    The first of: the most accurate file that a budget chose (``best-5ms.onnx``), or that of the
    largest budget where no Record holds an AP; the measured file with the highest AP on val,
    fine-tuned files included; the weights of the run. Raises :class:`InputError` for a folder with
    none of them.
    """
    aps = _measured_aps(folder)
    artifacts = artifacts_in(folder)
    chosen = [path for path in artifacts if path.parent == folder and path.match(CHOSEN)]
    for paths, why in ((chosen, "chosen under a budget"), (artifacts, "the best measured file")):
        known = [path for path in paths if artifacts[path] in aps]
        if known:
            best = max(known, key=lambda path: (aps[artifacts[path]], str(path)))
            ap = percent(aps[artifacts[best]])
            return best, f"{best}, {why}, with the highest AP on val ({ap})"
    if chosen:
        largest = max(chosen, key=lambda path: (_budget_ms(path), str(path)))
        return largest, f"{largest}, chosen under the largest budget; no Record holds its AP"
    found = run_weights(folder)
    return found, f"{found}, the weights of the run, because the folder holds no measured file"


def _budget_ms(path: Path) -> float:
    """The budget in the name of a chosen file, such as ``best-5ms-p95.onnx``; 0 without one."""
    found = re.match(r"best-([0-9.e+-]+)ms", path.name)
    try:
        return float(found[1]) if found else 0.0
    except ValueError:
        return 0.0


def _measured_aps(folder: Path) -> dict[str, float]:
    """SHA-256 of each file that the run measured on val -> its AP."""
    store = folder / "records.jsonl"
    if not store.is_file():
        return {}
    found: dict[str, float] = {}
    for record in Store(store).read():
        ap = _ap_on_val(record)
        if ap is not None and record.artifact is not None:
            found[record.artifact.sha256] = ap
    return found


def _ap_on_val(record: Record) -> float | None:
    if record.data is None or record.data.split != "val":
        return None
    return metric("ap").value(record)


def artifacts_in(folder: Path) -> dict[Path, str]:
    """Every deployed file of the run with a manifest -> its SHA-256 as the manifest states it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _DEPLOYED or not manifest_path(path).is_file():
            continue
        try:
            fields = read_json(manifest_path(path))
        except InputError:  # of a file that is being written
            continue
        if isinstance(fields, dict) and isinstance(fields.get("sha256"), str):
            found[path] = fields["sha256"]
    return found


class LoadedWeights(NamedTuple):
    """Weights as the model that is asked for."""

    path: Path  # their file
    detector: Detector  # of one architecture, in evaluation mode
    card: ModelCard
    sha256: str  # of the file
    resize: str  # a rule of :mod:`rfdetr_repro.spec.resize_rules`

    def meta(self, name: str | None = None) -> ArtifactMeta:
        """What a manifest states about the model; ``name``: default "rfdetr-" and the
        architecture.
        """
        name = name or f"rfdetr-{self.detector.arch.key}"
        model = ModelId(
            "rfdetr", name, checkpoint_sha256=self.sha256, trained_in=self.card.precision
        )
        return ArtifactMeta(model, self.card.class_names, self.card.category_ids, self.resize)


def loaded_weights(model: ModelSource, facts: FileFacts = NO_FACTS) -> LoadedWeights:
    """The weights of ``model`` with the architecture, the labels and the resize rule that ``facts``
    ask for, else with those of their card. Says which file is read where ``model`` does not name
    the file.

    Raises :class:`InputError` for a model without weights, and as
    :func:`~rfdetr_repro.model.checkpoints.pretrained.load_pretrained`.
    """
    from rfdetr_repro.model.checkpoints.pretrained import load_pretrained

    path, note = model.weights()
    if note:
        log.info(note)
    detector, card, sha256 = load_pretrained(path, facts.size, facts.labels)
    arch = facts.arch or card.arch
    arch = arch.with_input(*facts.shape) if facts.shape else arch
    if arch.rounding:
        log.info(arch.rounding)
    resize = with_antialias(card.resize_rule, facts.antialias)
    return LoadedWeights(path, detector.slice(arch), card, sha256, resize)


def _exported(model: ModelSource, folder: Path, to: str, facts: FileFacts) -> Artifact:
    from .onnx.exporter import export_onnx
    from .torch import export_torch

    found = loaded_weights(model, facts)
    key = found.detector.arch.key
    export = export_torch if to == "torch" else export_onnx
    suffix = "safetensors" if to == "torch" else "onnx"
    made = export(found.detector, folder / f"{found.path.stem}-{key}.{suffix}", meta=found.meta())
    log.info(f"{found.path}: exported as {key}")
    return made


def adopted(path: Path, folder: Path, facts: FileFacts) -> Artifact:
    """An ONNX file of another program as an artifact in ``folder``; what was found in the file is
    told.
    """
    from .adopt.adoption import adopt, described

    if facts.of_weights and facts.of_weights != ["--shape"]:
        raise InputError(
            f"{' and '.join(facts.of_weights)} cannot be stated of an ONNX file",
            path,
            "leave the arguments out",
        )
    made = adopt(
        path,
        folder / path.name,
        categories=facts.categories,
        pictures=facts.pictures,
        **{"shape": facts.shape, "antialias": facts.antialias, **facts.wishes},
    )
    log.info(f"{path} has no manifest: {described(made.manifest.adoption)}")
    tried(made)
    return made


def backend_of_file(artifact: Artifact) -> str:
    """The runtime that runs the file itself: an engine's own, PyTorch, or ONNX Runtime."""
    kind = artifact.manifest.format
    return {"onnx": "onnxruntime", MODULE: "torch"}.get(kind, kind)
