"""Tiny models of transformers' families with deformable attention: random configurations, random
weights, an input each.

Every number of a model is drawn anew, because fresh offsets lie exactly on pixels' centres, where
the derivative of a bilinear sample jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DECODER = {  # of RT-DETR and its descendants
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4,
    "decoder_layers": 2,
    "num_queries": 9,
    "num_denoising": 0,
    "num_labels": 5,
}
RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
HGNET = {
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 8, 12, 16],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [8, 12, 16, 20],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "embedding_size": 8,
}
SWIN = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 64,
    "drop_path_rate": 0.0,
}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 60,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
GROUNDING = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4,
    "num_queries": 9,
    "dropout": 0.0,
    "fusion_droppath": 0.0,
    "max_text_len": 16,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
PIXELS = 64


def _transformers() -> Any:
    import transformers

    return transformers


def _images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, PIXELS, PIXELS)}


def _rt_detr_like(name: str, backbone: str, settings: dict[str, Any], **more: Any) -> Any:
    library = _transformers()
    inner = getattr(library, f"{backbone}Config")(**settings, out_indices=[2, 3, 4])
    config = getattr(library, f"{name}Config")(
        backbone_config=inner, encoder_in_channels=[12, 16, 20], **DECODER, **more
    )
    return getattr(library, f"{name}ForObjectDetection")(config)


def _rt_detr() -> Any:
    return _rt_detr_like("RTDetr", "RTDetrResNet", RESNET)


def _rt_detr_v2() -> Any:
    return _rt_detr_like("RTDetrV2", "RTDetrResNet", RESNET, decoder_n_points=3)


def _rt_detr_v2_discrete() -> Any:
    return _rt_detr_like("RTDetrV2", "RTDetrResNet", RESNET, decoder_method="discrete")


def _d_fine() -> Any:
    return _rt_detr_like("DFine", "HGNetV2", HGNET)


def _d_fine_uneven() -> Any:
    return _rt_detr_like("DFine", "HGNetV2", HGNET, decoder_n_points=[3, 6, 2])


def _deimv2() -> Any:
    return _rt_detr_like("Deimv2", "HGNetV2", HGNET, decoder_n_points=[3, 6, 3])


def _doclayout(version: int) -> Callable[[], Any]:
    def build() -> Any:
        library = _transformers()
        more: dict[str, Any] = {}
        if version == 2:
            more["reading_order_config"] = {
                "hidden_size": 32,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "coordinate_size": 6,
                "shape_size": 4,
                "num_classes": 5,
                "relation_bias_embed_dim": 4,
                "global_pointer_head_size": 8,
                "attention_probs_dropout_prob": 0.0,
                "hidden_dropout_prob": 0.0,
            }
            more["class_thresholds"] = [0.5] * 5
            more["class_order"] = list(range(5))
        else:
            more |= {"global_pointer_head_size": 8, "gp_dropout_value": 0.0}
        if version == 3:
            more |= {"mask_feature_channels": [16, 16], "num_prototypes": 4, "x4_feat_dim": 8}
        if version == 4:
            more |= {"hidden_size": 32}
        inner = library.HGNetV2Config(**HGNET, out_features=STAGES[version != 3 :])
        config = getattr(library, f"PPDocLayoutV{version}Config")(
            backbone_config=inner, encoder_in_channels=[12, 16, 20], **DECODER, **more
        )
        return getattr(library, f"PPDocLayoutV{version}ForObjectDetection")(config)

    return build


def _deformable_detr() -> Any:
    library = _transformers()
    config = library.DeformableDetrConfig(
        backbone_config=library.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 12, 16, 20],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=STAGES[1:],
        ),
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=4,
        num_queries=9,
        dropout=0.0,
        num_labels=5,
        two_stage=True,
        with_box_refine=True,
        two_stage_num_proposals=9,
    )
    return library.DeformableDetrForObjectDetection(config)


def _grounding(name: str) -> Callable[[], Any]:
    def build() -> Any:
        library = _transformers()
        config = getattr(library, f"{name}Config")(
            backbone_config=library.SwinConfig(**SWIN, out_indices=[2, 3, 4]),
            text_config=library.BertConfig(**BERT),
            **GROUNDING,
        )
        return getattr(library, f"{name}ForObjectDetection")(config)

    return build


def _grounding_inputs() -> dict[str, Any]:
    return {**_images(), "input_ids": torch.tensor([[1, 7, 8, 9, 2], [1, 5, 6, 3, 2]])}


def _omdet_turbo() -> Any:
    library = _transformers()
    config = library.OmDetTurboConfig(
        backbone_config=library.SwinConfig(**SWIN, out_indices=[2, 3, 4]),
        text_config=library.CLIPTextConfig(
            hidden_size=48,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=60,
            max_position_embeddings=12,
            bos_token_id=1,
            eos_token_id=2,
        ),
        apply_layernorm_after_vision_backbone=False,
        image_size=PIXELS,
        text_projection_in_dim=48,
        text_projection_out_dim=48,
        class_embed_dim=48,
        task_encoder_hidden_dim=24,
        encoder_hidden_dim=32,
        vision_features_channels=[32, 32, 32],
        encoder_in_channels=[16, 32, 64],
        encoder_attention_heads=4,
        encoder_dim_feedforward=32,
        decoder_hidden_dim=32,
        decoder_num_heads=4,
        decoder_num_layers=2,
        decoder_dim_feedforward=32,
        num_queries=9,
        disable_custom_kernels=True,
    )
    return library.OmDetTurboForObjectDetection(config)


def _omdet_inputs() -> dict[str, Any]:
    return {
        **_images(),
        "classes_input_ids": torch.tensor([[1, 7, 2], [1, 5, 2], [1, 6, 2], [1, 9, 2]]),
        "classes_attention_mask": torch.ones(4, 3, dtype=torch.long),
        "classes_structure": torch.tensor([2, 2]),
        "tasks_input_ids": torch.tensor([[1, 7, 8, 2], [1, 5, 8, 2]]),
        "tasks_attention_mask": torch.ones(2, 4, dtype=torch.long),
    }


def _mask2former() -> Any:
    library = _transformers()
    config = library.Mask2FormerConfig(
        backbone_config=library.SwinConfig(**SWIN, out_features=STAGES),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=32,
        num_queries=5,
        num_labels=5,
    )
    return library.Mask2FormerForUniversalSegmentation(config)


def _oneformer() -> Any:
    library = _transformers()
    config = library.OneFormerConfig(
        backbone_config=library.SwinConfig(**SWIN, out_features=STAGES),
        num_queries=8,
        task_seq_len=6,
        text_encoder_width=16,
        text_encoder_context_length=6,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=60,
        text_encoder_n_ctx=2,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=4,
        dropout=0.0,
        dim_feedforward=32,
        num_labels=5,
    )
    return library.OneFormerForUniversalSegmentation(config)


def _oneformer_inputs() -> dict[str, Any]:
    return {**_images(), "task_inputs": torch.tensor([[1, 7, 2, 0, 0, 0], [1, 5, 2, 0, 0, 0]])}


def _lw_detr() -> Any:
    library = _transformers()
    backbone = library.LwDetrViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PIXELS,
        pretrain_image_size=PIXELS,
        patch_size=8,
        window_block_indices=[0],
        num_windows=4,
        out_indices=[1, 2],
    )
    config = library.LwDetrConfig(
        backbone_config=backbone,
        projector_scale_factors=[2.0, 0.5],
        d_model=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4,
        num_queries=9,
        group_detr=2,
        num_labels=5,
    )
    return library.LwDetrForObjectDetection(config)


def _rf_detr() -> Any:
    from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

    library = _transformers()
    backbone = RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=8,
        num_windows=2,
        out_indices=[1, 2],
    )
    config = library.RfDetrConfig(
        backbone_config=backbone,
        d_model=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4,
        num_queries=9,
        group_detr=2,
        num_labels=5,
        dropout=0.0,
        intermediate_size=64,
    )
    return library.RfDetrForObjectDetection(config)


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]], int]] = {
    # name: (model, inputs, number of deformable attentions)
    "rf_detr": (_rf_detr, _images, 2),
    "lw_detr": (_lw_detr, _images, 2),
    "rt_detr": (_rt_detr, _images, 2),
    "rt_detr_v2": (_rt_detr_v2, _images, 2),
    "rt_detr_v2 discrete": (_rt_detr_v2_discrete, _images, 2),
    "d_fine": (_d_fine, _images, 2),
    "d_fine uneven": (_d_fine_uneven, _images, 2),
    "deimv2": (_deimv2, _images, 2),
    "deformable_detr": (_deformable_detr, _images, 3),
    "grounding_dino": (_grounding("GroundingDino"), _grounding_inputs, 3),
    "mm_grounding_dino": (_grounding("MMGroundingDino"), _grounding_inputs, 3),
    "omdet_turbo": (_omdet_turbo, _omdet_inputs, 2),
    "mask2former": (_mask2former, _images, 2),
    "oneformer": (_oneformer, _oneformer_inputs, 2),
    "pp_doclayout_v2": (_doclayout(2), _images, 2),
    "pp_doclayout_v3": (_doclayout(3), _images, 2),
    "pp_doclayout_v4": (_doclayout(4), _images, 2),
}


def tiny(name: str) -> tuple[Any, dict[str, Any]]:
    """A seeded model in evaluation mode with every parameter drawn anew, and its inputs."""
    torch.manual_seed(0)
    build, inputs, _ = FAMILIES[name]
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, inputs()
