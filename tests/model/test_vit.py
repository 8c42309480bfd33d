"""Weight sharing in the backbone: resampled kernels and positions, windows, class copies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_detector

from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.pretrained import save_released
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.vit import (
    UNFUSED_TOKENS,
    attention,
    from_windows,
    resample_patch_kernel,
    resample_positions,
    share_class_token,
    to_windows,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig

SIZES = (8, 10, 12, 14, 16, 20, 24, 32)


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", SIZES)
def test_enlarged_patch_gives_the_same_token(old: int, new: int) -> None:
    """FlexiViT's invariant, exact when the patch grows."""
    generator = torch.Generator().manual_seed(old * 100 + new)
    kernel = torch.randn(5, 3, old, old, generator=generator, dtype=torch.float64)
    patch = torch.randn(1, 3, old, old, generator=generator, dtype=torch.float64)
    enlarged = F.interpolate(patch, size=(new, new), mode="bilinear", antialias=True)
    token = (kernel * patch).sum((1, 2, 3))
    resampled = (resample_patch_kernel(kernel, new) * enlarged).sum((1, 2, 3))
    if new >= old:
        assert torch.allclose(resampled, token, atol=1e-8)
    else:  # information is lost; the least-squares kernel still has the right scale
        assert resampled.std() < 3 * token.std()


def test_kernel_gradient_reaches_the_stored_kernel() -> None:
    kernel = torch.randn(2, 3, 16, 16, requires_grad=True)
    resample_patch_kernel(kernel, 12).square().sum().backward()
    assert kernel.grad is not None and kernel.grad.abs().min() >= 0 and kernel.grad.abs().sum() > 0


def test_same_size_is_not_resampled() -> None:
    kernel = torch.randn(2, 3, 16, 16)
    positions = torch.randn(1, 17, 8)
    assert resample_patch_kernel(kernel, 16) is kernel
    assert resample_positions(positions, (4, 4), (4, 4)) is positions
    wide = torch.randn(1, 17, 8)  # 2 x 8: as many as 4 x 4
    assert resample_positions(wide, (2, 8), (2, 8)) is wide and not torch.equal(
        resample_positions(wide, (2, 8), (4, 4)), wide
    )


def test_positions_keep_the_class_row_and_a_constant_table() -> None:
    positions = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 64, 4), 3.0)], dim=1)
    for grid in ((4, 4), (10, 10), (4, 6)):
        resampled = resample_positions(positions, (8, 8), grid)
        assert resampled.shape == (1, 1 + grid[0] * grid[1], 4)
        assert torch.allclose(resampled[:, 0], torch.tensor(7.0)) and torch.allclose(
            resampled[:, 1:], torch.tensor(3.0), atol=1e-5
        )


@pytest.mark.parametrize(("windows", "grid"), [(1, (4, 4)), (2, (4, 6)), (4, (8, 4))])
def test_windows_round_trip(windows: int, grid: tuple[int, int]) -> None:
    tokens = torch.arange(2 * grid[0] * grid[1] * 3, dtype=torch.float32).reshape(2, *grid, 3)
    assert torch.equal(
        from_windows(to_windows(tokens, windows), windows, grid), tokens.permute(0, 3, 1, 2)
    )


def test_first_window_is_the_upper_left_corner() -> None:
    tokens = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert to_windows(tokens, 2)[0].flatten().tolist() == [0, 1, 4, 5]


def test_windowed_block_sees_only_its_window_until_a_global_block() -> None:
    """With block 2 global: after block 1 a change in one window stays there, after block 2 it is
    everywhere.
    """
    backbone = tiny_detector().backbone
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., :16, :16] += 1
    with torch.no_grad():
        before = backbone(images, 16, 2)
        after = backbone(changed, 16, 2)
    # (4, 4) tokens, windows of 2 x 2
    moved = [(a - b).abs().amax(1)[0] > 1e-6 for a, b in zip(before, after, strict=True)]
    assert moved[1][:2, :2].all() and not moved[1][2:, :].any() and not moved[1][:, 2:].any()
    assert moved[2].all()


def test_what_a_long_sequence_keeps_for_its_backward_pass() -> None:
    """On a CPU bfloat16 attention keeps no scores of long sequences: 14,401 tokens of 12 blocks
    would need 30 GB.
    """
    kept: list[int] = []
    q = torch.randn(1, 1, 2 * UNFUSED_TOKENS, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        long = attention(q, q, q)
    assert max(kept) < q.shape[2] ** 2 / 10
    half = [part.float() for part in (q, q, q)]
    assert torch.allclose(
        long.float(), torch.nn.functional.scaled_dot_product_attention(*half), atol=0.02
    )


@pytest.mark.parametrize("windows", [1, 2])
def test_windows_share_the_mean_class_token_and_keep_all_others(windows: int) -> None:
    tokens = torch.randn(3 * windows**2, 5, 8)
    shared = share_class_token(tokens, windows)
    of_image = tokens.reshape(3, windows**2, 5, 8)
    wanted = of_image.clone()
    wanted[:, :, 0] = of_image[:, :, 0].mean(1, keepdim=True)
    assert torch.allclose(shared, wanted.reshape(tokens.shape))
    assert windows > 1 or torch.equal(shared, tokens)


def test_one_class_token_changes_windowed_maps_only_and_a_subnet_has_it_too(tmp_path) -> None:
    copies = tiny_detector()
    config = replace(copies.config, shared_class_token=True)
    one = Detector(config, copies.arch).eval()
    one.load_state_dict(copies.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for windows in (1, 2):
            ours, theirs = (model.features(images, 16, windows)[0] for model in (one, copies))
            assert torch.equal(ours, theirs) == (windows == 1)
        arch = replace(one.arch, resolution=64, patch=16, windows=2)
        whole, subnet = one(images, arch), one.slice(arch)(images)
        assert torch.allclose(whole.logits, subnet.logits, atol=1e-4)
    assert ModelConfig.from_json(config.stated()) == config
    assert "shared_class_token" not in copies.config.stated()
    card = ModelCard(
        config, one.arch, ("a",) * config.num_classes, tuple(range(config.num_classes))
    )
    with pytest.raises(InputError, match="one class token"):
        save_released(tmp_path / "one.pth", one, card)
