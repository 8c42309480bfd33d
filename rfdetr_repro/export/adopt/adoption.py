"""Adopts an ONNX file of another program as an artifact: nodes that are added to the file turn its
outputs into ranked detections.

The work that a detector's own code does around the graph (normalisation, sigmoid, ranking, box
format) becomes part of the file, so that its latency covers the same work as that of RF-DETR's own
artifacts, and one SHA-256 identifies all of it. :mod:`.forms` lists the supported output formats. A
property that the user does not state is read from the file's metadata (:mod:`.file`) or inferred
from its outputs on images (:mod:`.probe`); an assumption is stated in the manifest's ``adoption``;
a property that cannot be inferred leads to an error that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.export.onnx.nms import STANDARD, Nms
from rfdetr_repro.export.onnx.shapes import inferred_shapes, with_shapes
from rfdetr_repro.export.onnx.surgery import change_input
from rfdetr_repro.export.onnx_file import check_operators
from rfdetr_repro.export.trial import run_once
from rfdetr_repro.spec.errors import InputError

from .boxes import BOXES
from .classes import CLASSES, Categories, ClassMap, join
from .description import described, finished, fixed_shape, parameters, precision_of
from .file import Metadata, read, refuse_other_tasks, standard_input
from .forms import FORMS
from .preprocessing import (
    chosen_filter,
    chosen_normalisation,
    chosen_resize,
    network_inputs,
    truths_of,
)
from .probe import Probe
from .reading import (
    Reading,
    add_nodes,
    chosen_form,
    chosen_layout,
    gives_odds,
    masks_in_0_1,
    needs_suppression,
)
from .seen import Evidence, Picture, Seen, agreed, seen
from .wishes import NORMALISE, RESIZE, Wishes
from .yolo import YOLO_FORMS

__all__ = [
    "BOXES",
    "CLASSES",
    "FORMS",
    "NORMALISE",
    "RESIZE",
    "Categories",
    "Picture",
    "Wishes",
    "adopt",
    "described",
]


def adopt(
    path: str | Path,
    out: str | Path,
    *,
    categories: Categories | None = None,
    weights: str = "trained",
    nms: Nms = STANDARD,
    pictures: Sequence[Callable[[], Picture]] = (),
    **stated: Any,
) -> Artifact:
    """Writes the file at ``path`` as the artifact ``out`` with its manifest.

    ``categories``: the categories of the data set that the model was trained on. ``nms``: settings
    of suppression, for formats that need suppression; its ``inject`` is for random weights only.
    ``pictures``: functions that load images like those of the training data, on which the outputs
    are examined; without images, a synthetic image is used. ``stated``: the user's statements about
    the file, by the fields of :class:`Wishes`. Raises :class:`InputError` for a file that is not a
    detector of single images, and for a property that can neither be inferred nor is stated.
    """
    wishes = Wishes(**stated)
    wishes.check(path)
    if nms.inject is not None and weights != "random":
        raise InputError(
            "scores are injected into a model whose weights are stated to be trained",
            path,
            "state that the weights are random",
        )
    model, metadata, hashes = read(path)
    refuse_other_tasks(model, metadata, path)
    check_operators(model, path)
    params = parameters(model)
    precision = precision_of(model)
    image = standard_input(model, metadata, wishes.shape, path)
    _try(model, path)
    model = with_shapes(model, path)
    _widen_outputs(model)
    normalised, why_normalised = chosen_normalisation(model, image, metadata, wishes)
    change_input(model.graph, image.shape.name, normalised)
    trained = categories if weights != "random" else None
    outputs = [fixed_shape(value, path) for value in model.graph.output]
    resized, why_resized = chosen_resize(metadata, wishes)
    probe = Probe(model, image.shape.name, network_inputs(pictures, image, resized), path)
    form, last = chosen_form(outputs, metadata, probe, trained, wishes, path)
    looked = seen(form, outputs, probe, last, path)
    truths = truths_of(pictures, image, resized)
    layout = chosen_layout(
        form, outputs, metadata, looked if weights != "random" else [], image, wishes
    )
    if wishes.boxes is None:
        layout = agreed(layout, looked, truths, image.size)
    if wishes.resize is None and form in YOLO_FORMS and not metadata.ultralytics:
        resized = "letterbox"
        why_resized = " (usual for this form; --resize stretch is the other way)"
    rule, why_rule = chosen_filter(RESIZE[resized], metadata, form, wishes)
    truths = truths_of(pictures, image, resized)
    suppressed = form in YOLO_FORMS or (
        form == "boxes-scores" and needs_suppression(outputs, looked, layout)
    )
    evidence = Evidence(form, outputs, probe, last, layout, image.size, truths, path)
    joined = _join(trained, evidence, metadata, looked, wishes)
    ranked = all((np.diff(one.scores) <= 0).all() for one in looked)
    halves = form == "decoded" and masks_in_0_1(outputs, probe)
    reading = Reading(
        form,
        last,
        layout,
        suppressed,
        halves,
        ranked,
        form == "detr-softmax" and gives_odds(outputs, probe),
    )
    add_nodes(model, reading, image, nms, path)
    content, manifest = finished(with_shapes(model, path), path, image)
    adoption = {
        "input": image.describe(),
        "form": form + (" (as asked)" if wishes.form else ""),
        "boxes": layout.describe() + (" (as asked)" if wishes.boxes else ""),
        "resize": f"{resized}{why_resized}, {why_rule}",
        "normalisation": normalised + why_normalised,
        "classes": joined.how,
    } | ({"suppression": nms.describe()} if suppressed else {})
    manifest = replace(
        manifest,
        class_names=joined.names,
        category_ids=joined.ids,
        packages={**hashes, **(nms.stated() if suppressed else {}), **manifest.packages},
        model=replace(manifest.model, weights=weights),
        normalisation=f"{normalised}, added to the graph; the rest as in the file",
        resize=rule,
        params=params,
        precision=precision,
        adoption=adoption,
    )
    return write_artifact(out, content, manifest)


def _try(model: onnx.ModelProto, path: str | Path) -> None:
    """Runs the file once in another process, because later steps run the file in this process."""
    try:
        run_once(model.SerializeToString(), path)
    except InputError:
        inferred_shapes(model, path)  # if shapes are the cause, this error names them
        raise


def _widen_outputs(model: onnx.ModelProto) -> None:
    """Converts float16 outputs to float32 and keeps their names."""
    for value in model.graph.output:
        if value.type.tensor_type.elem_type in (TensorProto.FLOAT16, TensorProto.DOUBLE):
            narrow = f"{value.name}/own_type"
            for node in model.graph.node:
                node.input[:] = [narrow if name == value.name else name for name in node.input]
                node.output[:] = [narrow if name == value.name else name for name in node.output]
            model.graph.node.append(
                helper.make_node("Cast", [narrow], [value.name], to=TensorProto.FLOAT)
            )
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _join(
    categories: Categories | None,
    evidence: Evidence,
    metadata: Metadata,
    looked: Sequence[Seen],
    wishes: Wishes,
) -> ClassMap:
    settled = evidence.form not in ("decoded", "rows", "rows-seg")
    count = max(one.classes for one in looked)
    if not settled and metadata.names:
        settled, count = count <= len(metadata.names), max(count, len(metadata.names))
    elif not settled and categories is not None:
        count = max(one.classes for one in evidence.seen())
    return join(
        categories,
        count,
        metadata.names,
        evidence,
        asked=wishes.classes,
        settled=settled,
        path=evidence.path,
    )
