"""Baselines of transformers small enough to run and export in a test, every weight random, so that
no branch is the identity.
"""

from __future__ import annotations

from typing import Any

import torch

from rfdetr_repro.baselines.d_fine import adapter as d_fine
from rfdetr_repro.baselines.deim_v2 import adapter as deim_v2
from rfdetr_repro.baselines.lw_detr import adapter as lw_detr
from rfdetr_repro.baselines.rt_detr import adapter as rt_detr
from rfdetr_repro.baselines.rt_detr_v2 import adapter as rt_detr_v2

CLASSES = 5
QUERIES = 12
SIDE = 96
GAIN = 2.0  # of the weights, over the root of the number of inputs
_NARROW = {
    "num_queries": QUERIES,
    "decoder_layers": 2,
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
FAMILIES = {
    "dfine": d_fine,
    "rtdetr": rt_detr,
    "rtdetrv2": rt_detr_v2,
    "lwdetr": lw_detr,
    "deimv2": deim_v2,
    "deimv2-transformer": deim_v2,
}
# those whose images are normalised before the first layer
NORMALISED = ("lwdetr", "deimv2-transformer")


def library_model(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = {
        "dfine": _d_fine,
        "rtdetr": lambda: _rt_detr(rt_detr),
        "rtdetrv2": lambda: _rt_detr(rt_detr_v2),
        "lwdetr": _lw_detr,
        "deimv2": _deim_v2,
        "deimv2-transformer": _deim_v2_transformer,
    }[family]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point() or value.numel() < 2 or "pos" in name:
                continue
            noise = torch.rand(value.shape, generator=generator) - 0.5
            if value.ndim > 1:  # keeps the spread of what comes in, or all queries would be alike
                value.copy_(noise * (GAIN / value[0].numel() ** 0.5))
            else:
                value.add_(0.2 * (noise + 0.5 * ("running_var" in name)))
        normalise_by(model, images())
        typical = model(images()).logits.mean((0, 1))
        biases = [
            value
            for name, value in model.state_dict().items()
            if "class_embed" in name and name.endswith("bias")
        ]
        for bias in {bias.data_ptr(): bias for bias in biases}.values():  # layers share one
            bias.sub_(typical)  # no class is the best everywhere
    return model


def normalise_by(model: Any, batch: torch.Tensor) -> None:
    """Batch normalisation with the statistics of ``batch``, as training leaves it: places then
    differ in every layer. Without, random layers give nearly the same everywhere, and which of two
    equal tokens becomes a query is left to rounding.
    """

    def measure(module: Any, arguments: tuple[torch.Tensor]) -> None:
        module.running_mean.copy_(arguments[0].mean((0, 2, 3)))
        module.running_var.copy_(arguments[0].var((0, 2, 3), unbiased=False) + 1e-3)

    layers = [
        module for module in model.modules() if getattr(module, "running_mean", None) is not None
    ]
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    model(batch)
    for hook in hooks:
        hook.remove()


def smallest_lead(model: Any, batch: torch.Tensor) -> float:
    """Of the last that is chosen over the first that is not, in every choice of the forward pass
    and in the final one of scores.

    Far above the rounding of float32 (1e-6 of the scores), no processor can choose otherwise.
    """
    leads: list[float] = []
    plain = torch.topk

    def lead(values: torch.Tensor, chosen: int) -> float:
        ordered = values.flatten().sort(descending=True).values
        return float(ordered[chosen - 1] - ordered[chosen])

    def watched(values: torch.Tensor, k: int, *more: Any, **named: Any) -> Any:
        leads.append(lead(values, k))
        return plain(values, k, *more, **named)

    torch.topk = watched  # type: ignore[assignment]
    try:
        logits = model(batch).logits
    finally:
        torch.topk = plain
    assert leads, "the model chooses its queries"
    return min(*leads, lead(logits.sigmoid(), QUERIES))


def _narrow_hgnet() -> Any:
    from transformers.models.hgnet_v2 import HGNetV2Config

    return HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 24, 32],
        hidden_sizes=[16, 16, 24, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        use_learnable_affine_block=True,
        out_indices=[2, 3, 4],
    )


def _pyramid(backbone: Any) -> dict[str, Any]:
    return {
        "decoder_in_channels": [32] * 3,
        "encoder_in_channels": [16, 24, 32],
        "backbone_config": backbone,
        "decoder_attention_heads": 4,
        "encoder_attention_heads": 4,
    }


def _d_fine() -> Any:
    return d_fine.build("s", CLASSES, **_NARROW, **_pyramid(_narrow_hgnet()))


def _deim_v2() -> Any:
    """The decoder of S, on a convolutional backbone, which D-FINE's test model has, too."""
    return deim_v2.build(
        "s",
        CLASSES,
        **_NARROW,
        **_pyramid(_narrow_hgnet()),
        encoder_has_trailing_conv=True,
        decoder_n_points=[3, 6, 3],
    )


def _deim_v2_transformer() -> Any:
    """The decoder of S on a vision transformer beside its convolutional branch, as S has."""
    from transformers.models.dinov3_vit import DINOv3ViTConfig

    backbone = DINOv3ViTConfig(
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=48,
        pos_embed_rescale=None,
        apply_layernorm=False,
        out_indices=[1, 2, 3],
    )
    pyramid = _pyramid(backbone) | {"encoder_in_channels": [32] * 3}
    return deim_v2.build("s", CLASSES, **_NARROW, **pyramid, decoder_n_points=[3, 6, 3])


def _rt_detr(adapter: Any) -> Any:
    from transformers.models.rt_detr import RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        embedding_size=8,
        out_indices=[2, 3, 4],
    )
    return adapter.build("r18", CLASSES, **_NARROW, **_pyramid(backbone))


def _lw_detr() -> Any:
    from transformers.models.lw_detr import LwDetrViTConfig

    backbone = LwDetrViTConfig(
        image_size=128,
        pretrain_image_size=64,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_windows=4,
        window_block_indices=[0],
        out_indices=[0, 2],
    )
    heads = {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 4}
    small = {
        "num_queries": QUERIES,
        "d_model": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "group_detr": 2,
    }
    return lw_detr.build("small", CLASSES, **small, **heads, backbone_config=backbone)


def images(seed: int = 1) -> torch.Tensor:
    """(1, 3, SIDE, SIDE) in 0..1: noisy patches of colour, so that places differ from each other
    and no two are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(1, 3, SIDE // 16, SIDE // 16, generator=generator)
    noise = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    return 0.7 * torch.nn.functional.interpolate(patches, scale_factor=16.0) + 0.3 * noise
