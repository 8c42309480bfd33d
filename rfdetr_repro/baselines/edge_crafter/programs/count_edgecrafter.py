"""Counts the operations of a model of EdgeCrafter; run by the interpreter that has libreyolo, never
imported.

Arguments: the model's name, and a folder. Writes ``counted.json`` there: rows of counter, form,
parameters, operations of one image. Exit code 64: libreyolo cannot be imported, or has no
EdgeCrafter.
"""

import json
import sys
from pathlib import Path

from model_edgecrafter import build

name, folder = sys.argv[1:]
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

detector = build(name)
params = sum(parameter.numel() for parameter in detector.parameters())
with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
    detector(torch.zeros(1, 3, 640, 640))
counts = counter.get_flop_counts()["Global"]
total = sum(counts.values())
# what counters see that do not see fused attention, such as the authors'
weights = total - sum(counts.get(getattr(torch.ops.aten, key), 0) for key in ("bmm", "baddbmm"))
rows = [
    ("flopcountermode", "deployed", params, total),
    ("products with weights", "deployed", params, weights),
]
Path(folder, "counted.json").write_text(json.dumps(rows))
