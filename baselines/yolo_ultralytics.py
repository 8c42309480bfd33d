"""YOLOv8 and YOLO11, boxes and masks, by the user's own ultralytics (AGPL-3.0): run in its own process, never imported here.

RFDETR_ULTRALYTICS_PYTHON names the interpreter that has it. Its export is raw, without suppression; ours is put into the file.
Its own count of operations is what its documentation and the paper's tables print.
"""

from __future__ import annotations

from .foreign import Package

SIZES = {"n": "N", "s": "S", "m": "M", "l": "L", "x": "XL"}
FAMILIES = {"yolov8": "YOLOv8", "yolo11": "YOLOv11"}  # -> as the paper prints it

SCRIPT = """
import json, shutil, sys
from pathlib import Path
name, weights, folder = sys.argv[1:]
try:
    import ultralytics
    from ultralytics import YOLO
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)
import torch
torch.manual_seed(0)
model = YOLO(weights if weights != name else name + ".yaml")
try:
    from ultralytics.utils.torch_utils import get_flops
    flops = 1e9 * get_flops(model.model, 640) or None
except ImportError:
    flops = None
params = sum(one.numel() for one in model.model.parameters())
written = model.export(format="onnx", imgsz=640, opset=17, simplify=False, dynamic=False, nms=False, half=False, batch=1)
shutil.move(str(written), str(Path(folder, "raw.onnx")))
versions = {"ultralytics": ultralytics.__version__, "ultralytics-torch": torch.__version__}
Path(folder, "exported.json").write_text(json.dumps({"params": params, "flops": flops, "versions": versions}))
"""
PACKAGE = Package("ultralytics", "AGPL-3.0", "RFDETR_ULTRALYTICS_PYTHON", SCRIPT)


def package_name(name: str) -> str:
    """The package's name of row ``name``: yolov8-n-seg -> yolov8n-seg."""
    family, size, *seg = name.split("-")
    return "-".join([family + size, *seg])
