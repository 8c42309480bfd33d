"""Exports a subnet as one safetensors file that PyTorch runs: weights with ImageNet normalisation
folded in, and the architecture.

The module is the counterpart of ``export/onnx/exporter.py`` and writes the same manifest: input
``images`` in 0..1, outputs ranked detections. The file is not a checkpoint, because its input is
scaled differently, and has a format of its own. Loading executes no code from the file. Equal
weights give equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rfdetr_repro.export.onnx.exporter import (
    CONTRACTS,
    check_batch,
    check_classes,
    describe,
    example_images,
    fold_normalisation,
    record,
)
from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError

from .artifact import Artifact, ArtifactMeta, write_artifact

FORMAT = "rfdetr_repro/subnet/1"


def export_torch(
    subnet: Detector, path: str | Path, *, meta: ArtifactMeta, batch: int | str = 1
) -> Artifact:
    """Writes ``subnet`` (from ``supernet.slice``), which is not changed, as ``path`` with its
    manifest, which states ``batch`` as in :func:`.onnx.exporter.export_onnx`.

    The manifest holds the parameters and FLOPs of the ONNX file of the same subnet. Raises
    :class:`InputError` if the classes of ``meta`` do not fit the head or ``path`` ends in
    ``.onnx``.
    """
    check_classes(subnet.config, meta)
    if Path(path).suffix == ".onnx":
        raise InputError(
            "the file name of an artifact for PyTorch cannot end in .onnx",
            path,
            "choose a name like model.safetensors",
        )
    shown = batch if isinstance(check_batch(batch), int) else 1
    module = fold_normalisation(subnet)
    _, flops, outputs = record(module, CONTRACTS["decoded"])
    card = ModelCard(subnet.config, subnet.arch, tuple(meta.class_names), tuple(meta.category_ids))
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # one entry, because safetensors writes several in arbitrary order
    content = save(tensors, {FORMAT: card.to_json()})
    manifest = describe(
        subnet,
        content,
        meta,
        inputs={"images": example_images(subnet.arch, int(shown))},
        outputs={
            name: output.expand(int(shown), *output.shape[1:]) for name, output in outputs.items()
        },
        flops=flops,
    )
    normalisation = "ImageNet mean and standard deviation, inside the first convolution"
    packages = {"torch": manifest.packages["torch"]}
    return write_artifact(
        path,
        content,
        replace(
            manifest, format="torch", batch=batch, packages=packages, normalisation=normalisation
        ),
    )


def read_subnet(content: bytes, path: str | Path) -> Detector:
    """The subnet in a file's bytes, float32 on the CPU, in evaluation mode; raises
    :class:`InputError` for other content.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        card = ModelCard.from_json(metadata[FORMAT])
        tensors = load(content)
        if other := sorted(
            {str(tensor.dtype) for tensor in tensors.values()} - {str(torch.float32)}
        ):
            raise ValueError(f"weights of {', '.join(other)}")
        detector = Detector(card.config, card.arch)
        detector.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, InputError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(
            f"not a subnet that --to torch wrote ({reason})", path, "export the model again"
        ) from error
    return detector.eval().requires_grad_(False)
