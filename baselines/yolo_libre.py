"""YOLOX and YOLOv9, the detectors with suppression under a permissive licence, by libreyolo (MIT)
in a process of its own.

libreyolo imports torchvision, which need not fit the torch that runs here, so it has an interpreter
of its own, too: RFDETR_LIBREYOLO_PYTHON names it. Random weights by size only; trained ones are
exported by libreyolo and given with --onnx.
"""

from __future__ import annotations

from .foreign import Package

SIZES = {"yolox": ("n", "t", "s", "m", "l", "x"), "yolov9": ("t", "s", "m", "c")}
NAMES = {"yolox": "YOLOX", "yolov9": "YOLOv9"}
SIDES = {"yolox-n": 416, "yolox-t": 416}  # px; 640 for the rest
LETTERS = {"x": "XL"}

SCRIPT = """
import json, sys
from pathlib import Path
name, weights, folder = sys.argv[1:]
try:
    import libreyolo, torch
    from libreyolo import LibreYOLOX, LibreYOLO9
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)
family, size = name.split("-")
side = 416 if name in ("yolox-n", "yolox-t") else 640
torch.manual_seed(0)
kind = LibreYOLOX if family == "yolox" else LibreYOLO9
model = kind(None, size=size, device="cpu").model.eval()
params = sum(one.numel() for one in model.parameters())
model.head.export = True
with torch.no_grad():
    torch.onnx.export(model, (torch.rand(1, 3, side, side),), str(Path(folder, "raw.onnx")),
                      input_names=["images"],
                      output_names=["output"], opset_version=17, dynamo=False)
versions = {"libreyolo": getattr(libreyolo, "__version__", "unknown"),
            "libreyolo-torch": torch.__version__}
Path(folder, "exported.json").write_text(json.dumps({"params": params, "versions": versions}))
"""
PACKAGE = Package("libreyolo", "MIT", "RFDETR_LIBREYOLO_PYTHON", SCRIPT)
