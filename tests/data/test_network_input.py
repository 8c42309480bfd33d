"""A picture becomes a network's input in one function, whose arguments are the conventions."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD, View, network_input
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX, PLAIN, PLAIN_LETTERBOX, RULES

ROOT = Path(__file__).resolve().parents[2]
DOOR = "rfdetr_repro/data/network_input.py"
SEARCHED = ("rfdetr_repro", "baselines", "benchmarks", "reports")
# calls that scale pixels or maps, by the last part of their names
SCALES = {"resize", "thumbnail", "interpolate", "zoom", "grid_sample", "warpAffine", "Resize"}
# what is scaled elsewhere, and why it is no network input
OTHERS = {
    ("benchmarks/studies/upstream_masks.py", "case_of"): "smooth random logits",
    ("benchmarks/gpu_steps/operators.py", "masks"): "smooth random logits",
    ("benchmarks/gpu_steps/operators.py", "masks_agree"): "an output, a map of logits",
    ("benchmarks/gpu_steps/operators.py", "chain"): "an output, a map of logits",
    ("benchmarks/pace.py", "write_pictures"): "draws a picture of the data set",
    ("rfdetr_repro/bench/parts.py", "frame_of"): "draws the frame that is timed",
    ("rfdetr_repro/bench/parts.py", "synthetic_frame"): "draws the frame that is timed",
    ("rfdetr_repro/data/embedded/compose.py", "_background"): "draws a picture of the data set",
    ("rfdetr_repro/data/embedded/compose.py", "_scaled"): "draws a picture of the data set",
    ("rfdetr_repro/data/embedded/variation.py", "_light"): "draws a picture of the data set",
    ("benchmarks/studies/search_parts.py", "_picture"): "draws the picture that is decoded",
    ("rfdetr_repro/bench/scopes.py", "picture_bytes"): "draws the picture that is encoded",
    ("rfdetr_repro/model/vit.py", "_kernel_resize_matrix"): "a weight",
    ("rfdetr_repro/model/vit.py", "resample_positions"): "a weight",
    ("rfdetr_repro/model/mask_head.py", "resized"): "a feature map",
    ("rfdetr_repro/ops/reference.py", "ms_deform_attn_reference"): "a feature map",
    ("rfdetr_repro/train/mask_points.py", "sample_map"): "an output, a map of logits",
    ("rfdetr_repro/data/pseudo_masks.py", "masks"): "an output, a map of logits",
    ("rfdetr_repro/plots/rivals.py", "compared"): "a picture of a figure",
    ("rfdetr_repro/plots/rivals.py", "_with_masks"): "a picture of a figure",
}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(picture: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """float32 (3, H, W) in 0..1 as Pillow resizes."""
    image = Image.fromarray(picture).resize(hw[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


def pytorch(picture: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """float32 (3, H, W) in 0..1 as torch resizes without antialiasing."""
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(tensor, hw, mode="bilinear", align_corners=False)
    return resized[0].numpy()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_pictures_of_any_size_follow_the_rule(rule: str, normalised: bool) -> None:
    pictures = [noise(60, 80), noise(33, 20, 1), noise(40, 40, 2)]
    hw = 24, 32
    made = network_input(pictures, hw, rule, normalised=normalised)
    assert made.shape == (3, 3, *hw) and made.dtype == np.float32 and made.flags.c_contiguous
    resize = pillow if rule in (ANTIALIASED, LETTERBOX) else pytorch
    for picture, found in zip(pictures, made, strict=True):
        expected = np.full((3, *hw), 114 / 255, np.float32)
        if rule in (LETTERBOX, PLAIN_LETTERBOX):
            scale = min(hw[0] / picture.shape[0], hw[1] / picture.shape[1])
            height, width = (round(side * scale) for side in picture.shape[:2])
            top, left = (hw[0] - height) // 2, (hw[1] - width) // 2
            inside = resize(picture, (height, width))
            expected[:, top : top + height, left : left + width] = inside
        else:
            expected = resize(picture, hw)
        if normalised:
            mean, std = (
                np.array(values, np.float32)[:, None, None]
                for values in (IMAGENET_MEAN, IMAGENET_STD)
            )
            expected = (expected - mean) / std
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_view_is_the_window_mirrored() -> None:
    pictures = [noise(60, 80), noise(50, 50, 1)]
    views = [View((10, 20, 50, 60), True), View((0, 0, 50, 50), False)]
    made = network_input(pictures, (16, 24), views=views)
    picture = Image.fromarray(pictures[0])
    cut = picture.resize((24, 16), Image.Resampling.BILINEAR, box=(10, 20, 50, 60))
    mirrored = np.asarray(cut)[:, ::-1]
    np.testing.assert_allclose(made[0], mirrored.transpose(2, 0, 1) / np.float32(255), atol=1e-6)
    np.testing.assert_allclose(made[1], pillow(pictures[1], (16, 24)), atol=1e-6)
    with pytest.raises(ValueError, match="antialiasing"):
        network_input(pictures, (16, 24), PLAIN, views=views)
    with pytest.raises(ValueError, match="zip"):
        network_input(pictures, (16, 24), views=views[:1])


def scaling_calls(tree: ast.Module) -> set[str]:
    """Names of the functions of a module that call something of SCALES."""
    found = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if name in SCALES:
                    found.add(function.name)
    return found


def test_no_other_module_resizes_for_a_network() -> None:
    found = set()
    for folder in SEARCHED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name != DOOR and not path.name.startswith("test_"):
                calls = scaling_calls(ast.parse(path.read_text(encoding="utf-8")))
                found |= {(name, function) for function in calls}
    assert found == set(OTHERS)


@pytest.mark.parametrize(
    "line",
    [
        "Image.fromarray(x).resize((3, 4))",
        "torch.nn.functional.interpolate(x, (3, 4))",
        "cv2.resize(x, (3, 4))",
        "transforms.Resize(3)(x)",
        "interpolate(x, 3)",
    ],
)
def test_the_look_at_the_code_finds_a_resize(line: str) -> None:
    assert scaling_calls(ast.parse(f"def late(x):\n    return {line}\n")) == {"late"}
    assert not scaling_calls(ast.parse("def late(x):\n    return resized(x)\n"))
