"""What an engine's layers say about its precision, in the forms TensorRT 8 to 11 write them."""

from __future__ import annotations

import json

import pytest

from rfdetr_repro.export.tensorrt.census import engine_census, precision_of


def information(*types: str) -> str:
    """As the inspector writes it; "" is a layer without details."""
    layers: list[object] = [
        {
            "Name": f"layer {index}",
            "LayerType": "kgen",
            "Outputs": [{"Name": "y", "Format/Datatype": kind}],
        }
        if kind
        else "layer"
        for index, kind in enumerate(types)
    ]
    return json.dumps({"Layers": layers, "Bindings": ["images"]})


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Half", "Half"),
        ("Row major linear FP16 format", "Half"),
        ("Float", "Float"),
        ("Row major linear FP32", "Float"),
        ("BF16", "BFloat16"),
        ("Bfloat16", "BFloat16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "Int8"),
        ("Int64", "Int64"),
        ("FP8", "FP8"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_words_for_a_type(words: str, precision: str) -> None:
    assert engine_census(information(words)) == {precision: 1}


def test_layers_without_details_are_unknown() -> None:
    assert engine_census(information("Half", "", "Int32")) == {"Half": 1, "Int32": 1, "unknown": 1}
    assert engine_census("{}") == {}


@pytest.mark.parametrize(
    ("asked", "census", "said"),
    [
        ("fp16", {"Half": 888, "Float": 112, "Int64": 5000}, "fp16"),
        # the float32 engine that a vanished builder flag gave
        ("fp16", {"Float": 1000}, "not fp16"),
        ("fp16", {"Half": 50, "Float": 50}, "not fp16"),
        ("fp16", {"Half": 1, "BFloat16": 9}, "not fp16"),
        ("fp16", {"unknown": 100}, "not fp16"),
        ("fp16", {}, "not fp16"),
        ("fp32", {"Float": 10}, "fp32"),
    ],
)
def test_what_a_row_may_say(asked: str, census: dict[str, int], said: str) -> None:
    assert precision_of(asked, census) == said
