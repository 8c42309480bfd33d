"""YOLOv8 and YOLO11, boxes and masks, by the user's own ultralytics (AGPL-3.0): run in its own
process, never imported here.

RFDETR_ULTRALYTICS_PYTHON names the interpreter that has it. Its export is raw, without suppression;
ours is put into the file. Its own count of operations is what its documentation and the paper's
tables print.
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
params = sum(one.numel() for one in model.model.parameters())
written = model.export(format="onnx", imgsz=640, opset=17, simplify=False, dynamic=False,
                       nms=False, half=False, batch=1)
shutil.move(str(written), str(Path(folder, "raw.onnx")))
versions = {"ultralytics": ultralytics.__version__, "ultralytics-torch": torch.__version__}
Path(folder, "exported.json").write_text(json.dumps({"params": params, "versions": versions}))
"""
COUNT = """
import json, sys
from pathlib import Path
name, folder = sys.argv[1:]
try:
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import get_flops
    import thop
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)
import torch
from torch.utils.flop_counter import FlopCounterMode
try:
    from calflops import calculate_flops
except ImportError:
    calculate_flops = None
rows = []
for form in ("evaluated", "deployed"):
    model = YOLO(name + ".yaml").model.eval()
    if form == "deployed":
        model = model.fuse(verbose=False)
    params = sum(one.numel() for one in model.parameters())
    rows.append(("ultralytics", form, params, 1e9 * get_flops(model, 640)))
    model.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 640, 640))
    rows.append(("flopcountermode", form, params, counter.get_total_flops()))
    if calculate_flops:
        flops, _, _ = calculate_flops(model, input_shape=(1, 3, 640, 640), print_results=False,
                                      output_as_string=False)
        rows.append(("calflops", form, params, flops))
Path(folder, "counted.json").write_text(json.dumps(rows))
"""
PACKAGE = Package("ultralytics", "AGPL-3.0", "RFDETR_ULTRALYTICS_PYTHON", SCRIPT, COUNT)


def package_name(name: str) -> str:
    """The package's name of row ``name``: yolov8-n-seg -> yolov8n-seg."""
    family, size, *seg = name.split("-")
    return "-".join([family + size, *seg])
