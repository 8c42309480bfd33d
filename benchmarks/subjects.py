"""What the detector benchmarks measure: exported detectors with random weights, ours and
transformers', of equal weights.

Random weights: a static graph takes the same time whatever its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rfdetr_repro.export.artifact import Artifact, ArtifactMeta
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.checkpoints.layouts import from_transformers
from rfdetr_repro.model.checkpoints.released import from_released
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.presets import PICO, Preset


def random_meta(name: str, classes: int) -> ArtifactMeta:
    """Facts for an export with random weights."""
    return ArtifactMeta(
        ModelId("rfdetr", name, weights="random"),
        tuple(f"class {n}" for n in range(classes)),
        tuple(range(classes)),
    )


def pico_artifact(folder: Path, arch: Arch = PICO.arch, form: str = "onnx") -> Artifact:
    """A slice of one seeded supernet, as ONNX or as what PyTorch runs ("torch"): equal calls give
    equal files.
    """
    torch.manual_seed(0)
    subnet = Detector(PICO.model, PICO.arch).eval().slice(arch)
    meta = random_meta(f"pico {arch.key}", PICO.model.num_classes)
    if form == "torch":
        return export_torch(subnet, folder / f"{arch.key}.safetensors", meta=meta)
    return export_onnx(subnet, folder / f"{arch.key}.onnx", meta=meta)


def both(row: Preset) -> tuple[Any, Detector]:
    """(transformers' model, ours) with the same random weights."""
    from rfdetr_repro.baselines.rf_detr_transformers.adapter import build

    torch.manual_seed(0)
    theirs = build(row.model, row.arch.windows)
    ours = Detector(row.model, row.arch)
    ours.load_state_dict(
        from_released(from_transformers(theirs.state_dict()), ours.state_dict(), row.model.groups)
    )
    return theirs, ours


class Theirs(nn.Module):
    """transformers' model with the outputs of one of our contracts; ``k``: queries that the decoded
    one ranks.
    """

    def __init__(self, model: Any, contract: str, k: int) -> None:
        """``model``: transformers' RF-DETR; ``contract``: "decoded" ends in the ``k`` best
        detections.
        """
        super().__init__()
        self.model = model
        self.decoded = contract == "decoded"
        self.k = k

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the contract."""
        found = self.model(pixel_values=pixels)
        masks = getattr(found, "pred_masks", None)
        if not self.decoded:
            return (found.pred_boxes, found.logits) + (() if masks is None else (masks,))
        scores, flat = found.logits.sigmoid().flatten(1).topk(self.k, dim=1)
        query = flat // found.logits.shape[2]
        labels = flat % found.logits.shape[2]
        centre, size = torch.gather(found.pred_boxes, 1, query[..., None].expand(-1, -1, 4)).split(
            2, dim=2
        )
        boxes_xyxy = torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=2)
        ranked = (scores, labels, boxes_xyxy)
        if masks is None:
            return ranked
        return *ranked, torch.gather(
            masks, 1, query[..., None, None].expand(-1, -1, *masks.shape[2:])
        )


def export_theirs(model: Any, path: Path, contract: str, row: Preset) -> Path:
    """By PyTorch's own exporter, as its users do; opset 18 is the oldest that it writes without
    conversion.
    """
    wrapped = Theirs(model, contract, row.arch.queries).eval()
    pixels = torch.rand(1, 3, *row.arch.input_hw)
    with torch.no_grad():
        program = torch.onnx.export(
            wrapped, (pixels,), dynamo=True, opset_version=18, verbose=False
        )
    program.save(path)
    return path
