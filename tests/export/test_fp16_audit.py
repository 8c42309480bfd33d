"""The float16 audit: it finds the LayerNorm of opset 16 that collapses, and clears the one of opset
17.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image
from samples_export import tiny_artifact
from samples_onnx import WIDTH, layer_norm, noise, written

from rfdetr_repro.export import fp16_audit
from rfdetr_repro.export.fp16_audit import audit, feeds_of
from rfdetr_repro.export.fp16_audit_command import main
from rfdetr_repro.spec.errors import InputError, run_main


def test_the_written_out_layer_norm_of_opset_16_is_an_island(tmp_path: Path) -> None:
    """Its variance is 90,000: in float16 the square is infinite and the result 0, which no check
    for finite numbers finds.
    """
    found = audit(layer_norm(tmp_path / "16.onnx", 16), noise(300))
    assert found.islands == ["/mean", "/square", "/variance", "/safe", "/deviation"]
    assert found.ranges["variance"].largest == pytest.approx(9e4, rel=0.5) and found.runs == 3
    x = noise(300)[0]["x"].astype(np.float16)
    with np.errstate(over="ignore"):
        collapsed = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean())
    assert not collapsed.any()


def test_the_same_norm_of_opset_17_and_small_inputs_need_none(tmp_path: Path) -> None:
    assert audit(layer_norm(tmp_path / "17.onnx", 17), noise(300)).islands == []
    assert audit(layer_norm(tmp_path / "16.onnx", 16), noise(1)).islands == []


def test_sums_and_powers_of_large_inputs_overflow_inside(tmp_path: Path) -> None:
    sums = helper.make_node("ReduceL2", ["x"], ["norm"], name="norm", axes=[-1], keepdims=1)
    path = written(
        tmp_path / "m.onnx",
        [sums, helper.make_node("Div", ["x", "norm"], ["y"], name="div")],
        {},
        [1, WIDTH],
    )
    assert [(risk.node, risk.kind) for risk in audit(path, noise(400)).risks] == [
        ("norm", "overflow inside")
    ]


def test_lost_digits_are_told_and_are_no_island(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "tiny"], ["y"], name="mul")],
        {"tiny": 1e-6},
        [1, WIDTH],
    )
    found = audit(path, noise(1))
    assert [(risk.node, risk.kind) for risk in found.risks] == [
        ("mul", "subnormal")
    ] and found.islands == []


def test_every_value_of_a_model_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More values than one run fetches, and nodes without a name."""
    monkeypatch.setattr(fp16_audit, "MOST_BYTES", 20 * 4 * WIDTH)
    nodes = [
        helper.make_node("Add", [f"v{i}" if i else "x", "one"], [f"v{i + 1}"]) for i in range(99)
    ]
    nodes.append(helper.make_node("Mul", [nodes[-1].output[0], "one"], ["y"]))
    path = written(tmp_path / "m.onnx", nodes, {"one": 1.0}, [1, WIDTH])
    found = audit(path, noise(0.1))
    assert len(found.ranges) == len(nodes) + 2 and found.islands == []
    assert found.ranges["v99"].largest == pytest.approx(99, abs=1)


def masked(path: Path, value: float) -> Path:
    """y = x where the sum of x / zero is below 1, else one: a value that is no number lies on the
    way to a finite output.
    """
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nil"], name="nil"),
        helper.make_node("Add", ["nil", "odd"], ["odds"], name="spoils"),
        helper.make_node("Equal", ["odds", "odds"], ["same"]),
        helper.make_node("Less", ["odds", "one"], ["small"]),
        helper.make_node("And", ["same", "small"], ["known"]),
        helper.make_node("Where", ["known", "odds", "one"], ["y"], name="chooses"),
    ]
    return written(path, nodes, {"zero": 0.0, "odd": value, "one": 1.0}, [1, WIDTH])


def test_infinite_values_are_not_dropped(tmp_path: Path) -> None:
    """Minus infinity, which attention masks hold, exists in float16; plus infinity is an overflow
    that float32 has already.
    """
    assert audit(masked(tmp_path / "low.onnx", -np.inf), noise(1)).islands == []
    found = audit(masked(tmp_path / "high.onnx", np.inf), noise(1))
    assert {risk.node: risk.kind for risk in found.risks}["spoils"] == "infinite"
    assert found.islands[0] == "spoils"


def test_nan_is_not_dropped(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nil"]),
        helper.make_node("Div", ["nil", "nil"], ["odds"], name="spoils"),
    ]
    hidden = [
        helper.make_node("Equal", ["odds", "odds"], ["same"]),
        helper.make_node("Where", ["same", "odds", "one"], ["y"]),
    ]
    path = written(
        tmp_path / "hidden.onnx", [*nodes, *hidden], {"zero": 0.0, "one": 1.0}, [1, WIDTH]
    )
    assert {risk.node: risk.kind for risk in audit(path, noise(1)).risks}["spoils"] == "NaN"
    shown = [*nodes, helper.make_node("Add", ["odds", "one"], ["y"])]
    path = written(tmp_path / "shown.onnx", shown, {"zero": 0.0, "one": 1.0}, [1, WIDTH])
    with pytest.raises(InputError, match="not finite in y"):
        audit(path, noise(1))
    path = written(
        tmp_path / "weights.onnx",
        [helper.make_node("Mul", ["x", "odd"], ["y"])],
        {"odd": np.nan},
        [1, WIDTH],
    )
    with pytest.raises(InputError, match="NaN.*, in odd"):
        audit(path, noise(1))


def test_our_own_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = tiny_artifact(tmp_path).path
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(
        pictures / "a.png"
    )
    code = run_main(main, [str(artifact), "--images", str(pictures)])
    told = capsys.readouterr().out
    assert code == 0 and "on 1 pictures: all values fit float16" in told, told


def broken(folder: Path, case: str) -> list[str]:
    model = folder / "m.onnx"
    if case == "corrupt":
        model.write_bytes(b"\x08\x07not onnx")
    elif case == "two axes":
        layer_norm(model, 17)
    elif case == "dynamic":
        written(model, [helper.make_node("Relu", ["x"], ["y"])], {}, [1, 3, "height", 8])
    elif case == "huge batch":
        written(model, [helper.make_node("Relu", ["x"], ["y"])], {}, [2**31, 3, 8, 8])
    elif case != "missing":
        written(model, [helper.make_node("Relu", ["x"], ["y"])], {}, [1, 3, 8, 8])
    pictures = folder / "pictures"
    pictures.mkdir()
    if case == "broken picture":
        (pictures / "a.png").write_bytes(b"no")
    more = {
        "there are no images": ["--images", str(pictures)],
        "broken picture": ["--images", str(pictures)],
    }
    more |= {"none": ["--count", "0"], "endless": ["--count", "9" * 20]}
    return [str(model), *more.get(case, [])]


BROKEN = (
    "missing",
    "corrupt",
    "two axes",
    "dynamic",
    "huge batch",
    "there are no images",
    "broken picture",
    "none",
    "endless",
)


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, broken(tmp_path, case)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_noise_is_the_same_every_time(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, [1, 3, 8, 8])
    first, second = (list(feeds_of(path, None, 2)) for _ in range(2))
    assert (
        all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, second, strict=True))
        and first[0]["x"].max() <= 1
    )


def test_a_model_that_does_not_run_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, [1, 3, 8, 8])
    with pytest.raises(InputError, match="the model does not run"):
        audit(path, [{"x": np.zeros((1, 2), np.float32)}])
    with pytest.raises(InputError, match="there is no image to run"):
        audit(path, [])
