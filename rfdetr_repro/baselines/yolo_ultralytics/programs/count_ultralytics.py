"""Counts the operations of a model of ultralytics; run by the interpreter that has ultralytics,
never imported.

Arguments: the package's name of the model, and a folder. Writes ``counted.json`` there: rows of
counter, form, parameters, operations of one image. Exit code 64: a package is missing; 65: this
version of ultralytics does not have the model.
"""

import json
import sys
from pathlib import Path

name, folder = sys.argv[1:]
try:
    import thop  # noqa: F401 (get_flops counts nothing without thop, and does not say so)
    from ultralytics.utils.torch_utils import get_flops
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)
import torch
from model_ultralytics import build, deployed, params_of
from torch.utils.flop_counter import FlopCounterMode

try:
    from calflops import calculate_flops
except ImportError:
    calculate_flops = None

rows = []
for form in ("evaluated", "deployed"):
    model = build(name).model.eval()
    if form == "deployed":
        model = deployed(model)
    params = params_of(model)
    rows.append(("ultralytics", form, params, 1e9 * get_flops(model, 640)))
    model.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 640, 640))
    rows.append(("flopcountermode", form, params, counter.get_total_flops()))
    if calculate_flops:
        flops, _, _ = calculate_flops(
            model, input_shape=(1, 3, 640, 640), print_results=False, output_as_string=False
        )
        rows.append(("calflops", form, params, flops))
Path(folder, "counted.json").write_text(json.dumps(rows))
