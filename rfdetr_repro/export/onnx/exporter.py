"""Exports a subnet as an ONNX file: opset 17, static shapes, ranking and box decoding inside
(architecture facts section 11).

Input ``images`` float32 (1, 3, H, W) RGB in 0..1; ImageNet normalisation is folded into the patch
embedding. Outputs, best first: ``scores`` (1, K) in 0..1, ``labels`` (1, K) int64 contiguous,
``boxes`` (1, K, 4) xyxy as parts of the image; with a mask head also ``masks`` (1, K, h, w) logits.
K = queries. Deformable attention becomes GridSample, or on request one node for the TensorRT plugin
of this project (:mod:`..plugin`). Equal weights give equal bytes. The leading 1
is the batch, which may be another number, or open (:mod:`.open_batch`).
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_repro.export.artifact import (
    MOST_IMAGES,
    NORMALISATION,
    OPEN_BATCH,
    Artifact,
    ArtifactMeta,
    Manifest,
    TensorSpec,
    write_artifact,
)
from rfdetr_repro.export.float16 import to_half
from rfdetr_repro.export.plugin import ATTENTION, ATTENTIONS, DECOMPOSED, DOMAIN, PLUGIN
from rfdetr_repro.model.detector import Detector, Outputs
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.ops import DECOMPOSITIONS
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbones import stated_backbone
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.protocol import PRECISIONS

from .aten import translate
from .graph import OPSET, Graph
from .open_batch import RECORDED, with_open_batch
from .trace import TraceError, trace


class Contract(NamedTuple):
    """Names of input and outputs, and the function that computes the outputs from the model's,
    given k.
    """

    input: str
    outputs: tuple[str, ...]
    run: Callable[[Outputs, int], tuple[Tensor | None, ...]]


def _ranked(outputs: Outputs, k: int) -> tuple[Tensor | None, ...]:
    ranked = top_k(outputs, k, recording=True)
    return ranked.scores, ranked.labels, ranked.boxes_xyxy, ranked.mask_logits


def _raw(outputs: Outputs, k: int) -> tuple[Tensor | None, ...]:
    return outputs.boxes_cxcywh, outputs.logits, outputs.mask_logits


CONTRACTS = {
    "decoded": Contract("images", ("scores", "labels", "boxes", "masks"), _ranked),
    "upstream": Contract("input", ("dets", "labels", "masks"), _raw),
}
# data-dependent: no CUDA-graph capture, no static engine
_FORBIDDEN = {"If", "Loop", "Scan", "NonZero", "NonMaxSuppression"}


def export_onnx(
    subnet: Detector,
    path: str | Path,
    *,
    meta: ArtifactMeta,
    contract: str = "decoded",
    precision: str = "fp32",
    islands: Sequence[str] = (),
    batch: int | str = 1,
    attention: str = DECOMPOSED,
) -> Artifact:
    """Writes ``subnet`` (from ``supernet.slice``), which is not changed, as ``path`` with its
    manifest.

    ``contract``: "decoded" is described above; "upstream" is the form of upstream's export: input
    ``input``, already normalised, -> ``dets`` (1, Q, 4) cxcywh, ``labels`` (1, Q, C) logits,
    ``masks`` (1, Q, h, w) logits. ``precision`` "fp16": see :mod:`..float16`; ``islands`` names
    further nodes to keep in float32. ``batch``: images of every run, or "dynamic" for a file that
    takes any number. ``attention``: "plugin" for a file that only TensorRT runs, with this
    project's plugin. Raises :class:`InputError` if the classes of ``meta`` do not
    fit the head, ``TraceError`` if the graph cannot be static.
    """
    check_classes(subnet.config, meta)
    options = {"contract": contract, "precision": precision, "attention": attention}
    choices = {"contract": CONTRACTS, "precision": PRECISIONS, "attention": ATTENTIONS}
    for name, given in options.items():
        if given not in choices[name]:
            raise InputError(
                f"unknown {name} {given!r}", hint=f"choose {' or '.join(choices[name])}"
            )
    if attention == PLUGIN and not isinstance(batch, int):
        raise InputError(
            "a file for the TensorRT plugin takes a fixed number of images",
            hint="give the batch as a number",
        )
    decoded = contract == "decoded"
    module = (
        fold_normalisation(subnet)
        if decoded
        else copy.deepcopy(subnet).to("cpu", torch.float32).eval()
    )
    model, flops, outputs = _recorded(module, CONTRACTS[contract], check_batch(batch), attention)
    content = model.SerializeToString(deterministic=True)
    shown = batch if isinstance(batch, int) else 1
    inputs = {CONTRACTS[contract].input: example_images(subnet.arch, shown)}
    manifest = describe(subnet, content, meta, inputs=inputs, outputs=outputs, flops=flops)
    build = {ATTENTION: attention} if attention == PLUGIN else {}
    manifest = replace(manifest, batch=batch, build=build)
    normalisation = (
        NORMALISATION if decoded else "ImageNet mean and standard deviation, before the graph"
    )
    manifest = replace(manifest, opset=OPSET, contract=contract, normalisation=normalisation)
    if precision == "fp16":
        content, manifest = to_half(model, islands, path).file(manifest)
    return write_artifact(path, content, manifest)


def check_classes(config: ModelConfig, meta: ArtifactMeta) -> None:
    """Raises :class:`InputError` unless every class of the head has a name and a category id."""
    if not len(meta.class_names) == len(meta.category_ids) == config.num_classes:
        given = f"{len(meta.class_names)} names and {len(meta.category_ids)} category ids"
        raise InputError(
            f"{given} for {config.num_classes} classes",
            meta.model.name,
            "name every class of the head",
        )


def check_batch(batch: int | str) -> int | str:
    """``batch`` itself; raises :class:`InputError` unless it is a whole number from 1 on, or
    "dynamic".
    """
    whole = isinstance(batch, int) and not isinstance(batch, bool)
    if batch == OPEN_BATCH or (whole and 1 <= int(batch) <= MOST_IMAGES):
        return batch
    raise InputError(
        f"the batch {batch!r} is neither a number of images nor {OPEN_BATCH}",
        hint=f"give a whole number from 1 to {MOST_IMAGES}, or {OPEN_BATCH}",
    )


def _recorded(
    module: Detector, contract: Contract, batch: int | str, attention: str
) -> tuple[onnx.ModelProto, int, dict[str, Tensor]]:
    """The model for ``batch``, the floating-point operations of one image, and the outputs by name,
    of one image where the batch is open.
    """
    if isinstance(batch, int):
        model, flops, outputs = record(module, contract, batch, attention)
        return model, flops // batch, outputs
    _, flops, outputs = record(module, contract)
    opened = with_open_batch(*(record(module, contract, count)[0] for count in RECORDED))
    _check(opened)
    return opened, flops, outputs


def example_images(arch: Arch, batch: int = 1) -> Tensor:
    """An input for recording, float32 (batch, 3, H, W) in 0..1; the recorded graph does not depend
    on the values.
    """
    shape = (batch, 3, *arch.input_hw)
    return torch.linspace(0, 1, math.prod(shape)).reshape(shape)


def record(
    module: Detector, contract: Contract, batch: int = 1, attention: str = DECOMPOSED
) -> tuple[onnx.ModelProto, int, dict[str, Tensor]]:
    """Records one pass of a subnet that accepts ``contract``'s input: ONNX model, floating-point
    operations, outputs by name.
    """
    images = example_images(module.arch, batch)
    decompositions = DECOMPOSITIONS if attention == DECOMPOSED else {}
    return build_model(module, images, contract, module.arch.queries, decompositions)


def describe(
    subnet: Detector,
    content: bytes,
    meta: ArtifactMeta,
    *,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    flops: int,
) -> Manifest:
    """The manifest of a float32 file of ``subnet``."""
    return Manifest(
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        model=replace(
            meta.model,
            arch=subnet.arch,
            task="segment" if subnet.config.masks else "detect",
            backbone=stated_backbone(subnet.config),
        ),
        class_names=tuple(meta.class_names),
        category_ids=tuple(meta.category_ids),
        inputs=tuple(_spec(name, tensor) for name, tensor in inputs.items()),
        outputs=tuple(_spec(name, tensor) for name, tensor in outputs.items()),
        params=subnet.num_params(),
        flops=flops,
        resize=meta.resize,
        packages={name: importlib.metadata.version(name) for name in ("torch", "onnx")},
    )


def build_model(
    module: nn.Module, images: Tensor, contract: Contract, k: int, decompositions: Mapping[Any, Any]
) -> tuple[onnx.ModelProto, int, dict[str, Tensor]]:
    """Records one pass of ``module(images)``; returns the checked model, its floating-point
    operations and the recorded outputs.
    """
    recorded = trace(module, images, lambda source: contract.run(module(source), k), decompositions)
    named = zip(contract.outputs, recorded.outputs, strict=True)
    outputs = {name: tensor for name, tensor in named if tensor is not None}
    graph = Graph(recorded, contract.input)
    for call in recorded.calls:
        translate(graph, call)
    model, flops = graph.model(outputs, "rfdetr_repro")
    _check(model)
    return model, flops, outputs


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    if kinds & _FORBIDDEN or any(node.domain not in ("", DOMAIN) for node in model.graph.node):
        raise TraceError(
            f"the graph is not static standard ONNX: "
            f"{sorted(kinds & _FORBIDDEN) or 'custom domain'}"
        )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def fold_normalisation(subnet: Detector) -> Detector:
    """A float32 copy of ``subnet`` on the CPU whose input is RGB in 0..1: (x - mean) / std is
    folded into the weights of the patch embedding.
    """
    projection = getattr(getattr(subnet, "backbone", None), "patch_embed", None)
    if (
        not isinstance(projection, nn.Conv2d)
        or projection.in_channels != 3
        or any(projection.padding)
        or projection.bias is None
    ):
        raise TraceError(
            "no patch embedding (backbone.patch_embed: an unpadded convolution of 3 channels) to "
            "fold into"
        )
    module = copy.deepcopy(subnet).to("cpu", torch.float32).eval().requires_grad_(False)
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    weight = projection.weight.detach().to("cpu", torch.float64) / std  # (D, 3, p, p)
    bias = projection.bias.detach().to("cpu", torch.float64) - (weight * mean).sum((1, 2, 3))
    module.load_state_dict(
        {"backbone.patch_embed.weight": weight, "backbone.patch_embed.bias": bias}, strict=False
    )
    return module
