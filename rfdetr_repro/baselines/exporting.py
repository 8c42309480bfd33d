"""Artifacts of baselines: a PyTorch module exported to ONNX, and an ONNX file adopted.

What the method does before and after its network (normalisation, choice of detections, box form)
goes into the file, so that every artifact gives the same ranked detections.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.spec.unfinished import temporary_folder

from .baseline import SEED, ExportRequest, Size

OPSET = 17
OUTPUTS = ("boxes", "logits", "masks")  # of the form "detr"
# form -> box format of what the programs of the baselines export
BOXES = {"detr": "cxcywh-relative", "rows": "xyxy-pixels", "rows-seg": "xyxy-pixels"}


def export_module(
    detector: nn.Module,
    size: Size,
    request: ExportRequest,
    *,
    dynamo: bool = False,
    packages: tuple[str, ...] = (),
) -> Artifact:
    """The artifact of ``detector``, whose input is a batch of one, float32 (1, 3, H, W) in 0..1.

    ``detector`` gives what ``size.form`` says; for "detr" boxes cxcywh in 0..1 (1, Q, 4), logits
    (1, Q, C) and maybe mask logits (1, Q, h, w). ``dynamo``: which of PyTorch's two exporters
    works. ``packages``: distributions whose versions the manifest shall name beside PyTorch's.
    """
    params = sum(parameter.numel() for parameter in detector.parameters())
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    with temporary_folder(request.path.parent) as scratch:
        exported = Path(scratch, f"{size.id}.onnx")
        export(detector, exported, size.hw, dynamo=dynamo)
        return adopt_export(exported, size, request, params=params, packages=versions)


def adopt_export(
    exported: Path,
    size: Size,
    request: ExportRequest,
    *,
    params: int,
    packages: Mapping[str, str],
) -> Artifact:
    """The artifact of the ONNX file ``exported``, which a method's own program wrote.

    ``params``: parameters of the model. ``packages``: name -> version of what wrote the file.
    """
    # stated, because random weights give no confident box from which a format could be inferred
    options: dict[str, Any] = {"boxes": BOXES[size.form]} if size.form in BOXES else {}
    with temporary_folder(request.path.parent) as scratch:
        adopted = adopt(
            exported,
            Path(scratch, "adopted.onnx"),
            categories=request.categories,
            form=size.form,
            normalise=size.normalise,
            weights=request.model.weights,
            nms=request.nms,
            **options,
        )
        manifest = replace(
            adopted.manifest,
            model=request.model,
            params=params,
            packages=adopted.manifest.packages | dict(packages) | dict(request.provider),
        )
        return write_artifact(request.path, adopted.path.read_bytes(), manifest)


def export(
    detector: nn.Module, path: str | Path, hw: tuple[int, int], *, dynamo: bool = False
) -> None:
    """ONNX file of batch 1 with fixed size: input ``images``, outputs ``boxes``, ``logits`` and
    maybe ``masks``, or one output of any name.
    """
    options: dict[str, Any] = {"do_constant_folding": True}
    if dynamo:
        options = {"external_data": False, "verbose": False}
    images = torch.rand(1, 3, *hw, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad(), warnings.catch_warnings():
        # tracing warns of every fixed shape, which is what is wanted
        warnings.simplefilter("ignore")
        made = detector(images)
        names = ["output0"] if isinstance(made, torch.Tensor) else list(OUTPUTS[: len(made)])
        torch.onnx.export(
            detector,
            (images,),
            str(path),
            input_names=["images"],
            output_names=names,
            opset_version=OPSET + dynamo,
            dynamo=dynamo,
            **options,
        )
