"""Exports a model of libreyolo with random weights; run by the interpreter that has libreyolo,
never imported.

Arguments: the model as FAMILY-SIZE, the same again, and an empty folder. Writes ``raw.onnx`` and
``exported.json`` there. Exit code 64: libreyolo cannot be imported.
"""

import json
import sys
from pathlib import Path

name, _, folder = sys.argv[1:]
try:
    import libreyolo
    import torch
    from libreyolo import LibreYOLO9, LibreYOLOX
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)

family, size = name.split("-")
side = 416 if name in ("yolox-n", "yolox-t") else 640
torch.manual_seed(0)
kind = LibreYOLOX if family == "yolox" else LibreYOLO9
model = kind(None, size=size, device="cpu").model.eval()
params = sum(parameter.numel() for parameter in model.parameters())
model.head.export = True
with torch.no_grad():
    torch.onnx.export(
        model,
        (torch.rand(1, 3, side, side),),
        str(Path(folder, "raw.onnx")),
        input_names=["images"],
        output_names=["output"],
        opset_version=17,
        dynamo=False,
    )
versions = {
    "libreyolo": getattr(libreyolo, "__version__", "unknown"),
    "libreyolo-torch": torch.__version__,
}
Path(folder, "exported.json").write_text(json.dumps({"params": params, "versions": versions}))
