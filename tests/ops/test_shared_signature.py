"""The operator under the signature of Deformable DETR's descendants: equal to transformers' own
implementation in values and gradients, and what does not fit is refused; the programs of the
tutorial run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import LEVELS, sample_inputs

from rfdetr_repro.ops import LIBRARY, ms_deform_attn, multi_scale_deformable_attention

ROOT = Path(__file__).resolve().parents[2]
THREE = [(6, 5), (3, 4), (2, 2)]


def layout(levels: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes and first pixels as Deformable DETR computes them."""
    shapes = torch.tensor(levels)
    return shapes, torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])


def transformers_reference() -> Any:
    package = pytest.importorskip("transformers", reason="transformers is not installed")
    del package
    from transformers.models.deformable_detr import modeling_deformable_detr as theirs

    return theirs.MultiScaleDeformableAttention()


@pytest.mark.parametrize("levels", [*LEVELS, THREE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_to_transformers(levels: list[tuple[int, int]], dtype: torch.dtype) -> None:
    reference = transformers_reference()
    tensors = sample_inputs(levels, channels=8, dtype=dtype, away_from_knots=True)
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    theirs = [tensor.clone().requires_grad_() for tensor in tensors]
    shapes, starts = layout(levels)
    out = multi_scale_deformable_attention(ours[0], shapes, starts, *ours[1:], 64)
    expected = reference(theirs[0], shapes, levels, starts, *theirs[1:], 64)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    upstream = torch.randn_like(expected)
    found = torch.autograd.grad(out, ours, upstream)
    wanted = torch.autograd.grad(expected, theirs, upstream)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("kind", ["tensors", "numbers", "int32", "mixed"])
def test_shapes_as_tensors_or_numbers(kind: str) -> None:
    value, locations, weights = sample_inputs(THREE, channels=8, dtype=torch.float32)
    shapes: Any
    starts: Any
    shapes, starts = layout(THREE)
    if kind == "numbers":
        shapes, starts = shapes.tolist(), starts.tolist()
    elif kind == "int32":
        shapes, starts = shapes.int(), starts.int()
    elif kind == "mixed":
        starts = starts.tolist()
    found = multi_scale_deformable_attention(value, shapes, starts, locations, weights)
    assert torch.equal(found, ms_deform_attn(value, THREE, locations, weights))


@pytest.mark.parametrize(
    ("shapes", "starts", "told"),
    [
        (THREE, [0, 30, 41], r"level_start_index is \[0, 30, 41\].*\[0, 30, 42\]"),
        (THREE, [0, 30], r"level_start_index is \[0, 30\]"),
        (torch.tensor([6, 5]), [0], r"spatial_shapes must be \(L, 2\), is \(2,\)"),
        ([(6, 5), (3, 4), (2, 3)], [0, 30, 42], "value has 46 pixels"),
    ],
)
def test_levels_that_do_not_fit_are_refused(shapes: Any, starts: Any, told: str) -> None:
    value, locations, weights = sample_inputs(THREE, channels=8, dtype=torch.float32)
    with pytest.raises(RuntimeError, match=told):
        multi_scale_deformable_attention(value, shapes, starts, locations, weights)


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", python_blocks("docs/tutorials/operators.md"))
def test_the_programs_of_the_tutorial_run(block: str) -> None:
    exec(compile(block, "docs/tutorials/operators.md", "exec"), {})


def test_errors_hold_no_folder_of_the_building_machine() -> None:
    with pytest.raises(RuntimeError, match=r"csrc/ms_deform_attn.cpp:\d+") as raised:
        ms_deform_attn(torch.zeros(1, 2, 3), [(1, 2)], torch.zeros(1), torch.zeros(1))
    assert not re.search(r"(?<![.\w])/\S*csrc/", str(raised.value))


@pytest.mark.parametrize("file", sorted(LIBRARY.parent.glob("*.so")), ids=lambda file: file.name)
def test_compiled_files_hold_no_folder_of_the_building_machine(file: Path) -> None:
    """Paths of sources and headers begin inside the repository or the package that they are of."""
    paths = re.findall(rb"[\x20-\x7e]+\.(?:cpp|cuh?|h|hpp)(?=\0)", file.read_bytes())
    assert [path for path in paths if path.startswith(b"/") and b"nvidia" not in path] == []
