"""Exports a model of ultralytics; run by the interpreter that has ultralytics, never imported.

Arguments: the package's name of the model, the file of its weights (the name again for random
weights), and an empty folder. Writes ``raw.onnx`` and ``exported.json`` there. Exit code 64:
ultralytics cannot be imported; 65: this version does not have the model; 66: the weights are of
another model.
"""

import json
import shutil
import sys
from pathlib import Path

name, weights, folder = sys.argv[1:]
try:
    import ultralytics
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)
import torch
from model_ultralytics import build, deployed, params_of

model = build(name, None if weights == name else weights)
params = params_of(deployed(model.model))
written = model.export(
    format="onnx",
    imgsz=640,
    opset=17,
    simplify=False,
    dynamic=False,
    nms=False,
    batch=1,
)
shutil.move(str(written), str(Path(folder, "raw.onnx")))
versions = {"ultralytics": ultralytics.__version__, "ultralytics-torch": torch.__version__}
Path(folder, "exported.json").write_text(json.dumps({"params": params, "versions": versions}))
