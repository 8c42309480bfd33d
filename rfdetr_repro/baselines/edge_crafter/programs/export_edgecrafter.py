"""Exports a model of EdgeCrafter with random weights; run by the interpreter that has libreyolo,
never imported.

Arguments: the model's name, the same again, and an empty folder. Writes ``raw.onnx`` and
``exported.json`` there. Exit code 64: libreyolo cannot be imported, or has no EdgeCrafter.
"""

import json
import sys
from pathlib import Path

from model_edgecrafter import build, versions

name, _, folder = sys.argv[1:]
import torch

detector = build(name)
images = torch.rand(1, 3, 640, 640)
with torch.no_grad():
    outputs = ["boxes", "logits", "masks"][: len(detector(images))]
    torch.onnx.export(
        detector,
        (images,),
        str(Path(folder, "raw.onnx")),
        input_names=["images"],
        output_names=outputs,
        opset_version=17,
        dynamo=False,
    )
params = sum(parameter.numel() for parameter in detector.parameters())
Path(folder, "exported.json").write_text(json.dumps({"params": params, "versions": versions()}))
