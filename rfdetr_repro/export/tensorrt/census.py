"""Number of an engine's layers by precision: the proof that a float16 engine computes in float16
(benchmark protocol, decision D3).

A wrapper once asked TensorRT 11 for float16 by a flag that no longer exists, and so measured a
float32 engine (docs/method/field_reports.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

MOSTLY = 0.5  # share of the layers with floating-point results
_UNCOUNTED = {"CONSTANT", "CAST", "SHUFFLE"}  # kinds of layers that compute nothing
_NAMES = {
    "BFloat16": r"bf16|bfloat",
    "Half": r"\bhalf\b|fp16|float16",
    "Float": r"\bfloat\b|fp32|float32",
    "FP8": r"fp8|e4m3",
    "FP4": r"fp4|e2m1",
    "Int8": r"int8",
    "Int4": r"int4",
    "Int32": r"int32",
    "Int64": r"int64",
    "Bool": r"bool",
}
# Int8 and Int4 hold quantised values
_FLOATING = ("Half", "Float", "BFloat16", "FP8", "FP4", "Int8", "Int4")


def engine_census(information: str) -> dict[str, int]:
    """Precision -> number of layers, from the engine inspector's JSON at detailed profiling
    verbosity.

    A layer counts once, by its first output. Layers without details count as "unknown".
    """
    layers = json.loads(information).get("Layers", [])
    return _counted(_of_layer(layer) for layer in layers)


def network_census(network: Any) -> dict[str, int]:
    """Precision -> number of layers of a parsed, strongly typed network, whose engine must have the
    same types.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kept = [layer for layer in layers if layer.type.name not in _UNCOUNTED and layer.num_outputs]
    return _counted(_precision(layer.get_output(0).dtype.name) for layer in kept)


def precision_of(asked: str, census: dict[str, int]) -> str:
    """The precision to report for the engine of a graph in ``asked`` ("fp32" or "fp16"): ``asked``,
    or "not fp16".
    """
    if asked != "fp16":
        return asked
    floating = sum(census.get(kind, 0) for kind in _FLOATING)
    return "fp16" if floating and census.get("Half", 0) > MOSTLY * floating else "not fp16"


def _of_layer(layer: Any) -> str:
    outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
    return _precision(outputs[0].get("Format/Datatype", "")) if outputs else "unknown"


def _precision(words: str) -> str:
    """The precision that TensorRT's text names, such as "Half", "HALF" or "Row major linear FP16
    format".
    """
    return next(
        (name for name, pattern in _NAMES.items() if re.search(pattern, words.lower())), "unknown"
    )


def _counted(precisions: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(precisions).items()))
