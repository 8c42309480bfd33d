"""Every kind of backbone against transformers' modules with the same random weights, and against
itself: a subnet equals the supernet, and an enlarged picture with enlarged patches gives the same
tokens.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from samples_backbones import (
    FIELDS,
    read,
    shaken,
    small,
    small_detector,
    their_backbone,
    their_folder,
)
from tiny import images_for

from rfdetr_repro.model.checkpoints.backbone_folders import (
    LAYOUTS,
)
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet, save_detector
from rfdetr_repro.model.detector import BACKBONE_CLASSES
from rfdetr_repro.model.rotary_vit import rotation
from rfdetr_repro.model.vit import to_windows
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbone_kinds import KINDS
from rfdetr_repro.spec.backbones import (
    BACKBONES,
    backbone_named,
    name_of,
    space_for,
    vit_fields,
    with_backbone,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO, PRESETS

THEIRS = (
    "dinov2",
    "dinov2-registers",
    "dinov3",
    "dinov3-gated",
    "convnext",
    "dinov3-convnext",
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) / float(expected.abs().max())


# -- transformers' modules -------------------------------------------------------------------------


# transformers resizes the table of its plain DINOv2 without antialiasing
@pytest.mark.parametrize(
    ("kind", "hw"),
    [
        *((kind, (64, 64)) for kind in THEIRS),
        *((kind, (96, 160)) for kind in THEIRS if kind != "dinov2"),
    ],
)
@torch.no_grad()
def test_every_map_equals_that_of_transformers(
    kind: str, hw: tuple[int, int], tmp_path: Path
) -> None:
    """At the size of the stored table and at another: rectangular, no windows."""
    theirs = their_folder(tmp_path, kind)
    backbone = read(tmp_path).backbone
    images = torch.randn(2, 3, *hw)
    expected = theirs(images).feature_maps
    found = backbone(images, 16, 1)
    if kind == "dinov3-convnext":  # their maps are not normalised, and ours start as the identity
        expected = [
            F.layer_norm(one.permute(0, 2, 3, 1), one.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
            for one in expected
        ]
    assert len(found) == len(expected) == len(backbone.config.maps)
    for ours, other in zip(found, expected, strict=True):
        assert gap(ours, other) < 1e-5


@torch.no_grad()
def test_the_last_norm_of_a_dinov3_convnext_is_read(tmp_path: Path) -> None:
    """Its model normalises the last stage; the norms of the other stages start as the identity."""
    import transformers

    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 2, 1])
    theirs = shaken(transformers.DINOv3ConvNextModel(config))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images).last_hidden_state[:, 1:]  # their mean comes first
    found = read(tmp_path).backbone(images, 16, 1)[-1]
    assert gap(found.flatten(2).transpose(1, 2), expected) < 1e-5


@torch.no_grad()
def test_a_classifier_is_read_without_its_head(tmp_path: Path) -> None:
    import transformers

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, num_labels=3
    )
    theirs = shaken(transformers.Dinov2WithRegistersForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    expected = theirs.dinov2_with_registers(images).last_hidden_state[:, 5:]
    found = read(tmp_path).backbone(images, 16, 1)[-1]
    assert gap(found.flatten(2).transpose(1, 2), expected) < 1e-5


_DINOV2 = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
    "large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}
_DINOV3 = {
    size: {**fields, "intermediate_size": 4 * fields["hidden_size"], "num_register_tokens": 4}
    for size, fields in _DINOV2.items()
}
_PLUS = {**_DINOV3["small"], "use_gated_mlp": True, "hidden_act": "silu"}
_PIXELS = {"image_size": 518, "patch_size": 14}
# (class of transformers, settings of the released config.json) of every named backbone
RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"dinov2-{size}": ("Dinov2", {**_DINOV2[size], **_PIXELS}) for size in _DINOV2},
    **{
        f"dinov2-registers-{size}": ("Dinov2WithRegisters", {**_DINOV2[size], **_PIXELS})
        for size in _DINOV2
    },
    **{f"dinov3-{size}": ("DINOv3ViT", _DINOV3[size]) for size in _DINOV3},
    "dinov3-small-plus": ("DINOv3ViT", _PLUS),
    "convnext-tiny": ("ConvNext", {"depths": [3, 3, 9, 3]}),
    "convnext-small": ("ConvNext", {"depths": [3, 3, 27, 3]}),
    "convnext-base": (
        "ConvNext",
        {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
    ),
    "convnext-large": (
        "ConvNext",
        {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
    ),
}


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.endswith("-pico")])
def test_named_backbones_have_the_parameters_of_transformers_modules(name: str) -> None:
    """Without their mask tokens, the table of positions, and the norms of maps; nothing is
    allocated.
    """
    import transformers

    prefix, settings = RELEASED[name]
    with torch.device("meta"):
        theirs = getattr(transformers, f"{prefix}Model")(
            getattr(transformers, f"{prefix}Config")(**settings)
        )
        row, _ = with_backbone(PRESETS["nano"], backbone_named(name))
        ours = BACKBONE_CLASSES[row.model.backbone](replace(row.model, patch=16))
    apart = ("mask_token", "position_embeddings", "patch_embeddings", "layernorm.")
    expected = sum(
        parameter.numel()
        for key, parameter in theirs.named_parameters()
        if not any(part in key and "stages" not in key for part in apart)
        and not (prefix != "ConvNext" and key.startswith("norm."))
    )
    found = sum(
        parameter.numel()
        for key, parameter in ours.named_parameters()
        if not key.startswith(("pos_embed", "patch_embed", "patch_norm", "norm.", "norms."))
    )
    assert found == expected and name_of(row.model) == name


# -- one set of weights for every architecture -----------------------------------------------------


def archs_of(kind: str) -> list[Arch]:
    windows = (1, 2) if KINDS[FIELDS[kind]["backbone"]].windows else (1,)
    # 52 / 4: an odd grid; 96 x 64: rectangular
    return [
        *(Arch(64, 16, count, 2, 10) for count in windows),
        *(Arch(96, 12, count, 1, 7) for count in windows),
        Arch(52, 4, 1, 2, 10) if kind == "convnext" else Arch(70, 10, 1, 2, 10),
        Arch(60, 20, 1, 0, 3),
        Arch(96, 16, windows[-1], 1, 10, 64),
    ]


@pytest.mark.parametrize("kind", FIELDS)
@torch.no_grad()
def test_a_subnet_cut_out_equals_the_supernet(kind: str) -> None:
    detector = small_detector(kind)
    for arch in archs_of(kind):
        images = images_for(arch)
        expected = detector(images, arch)
        subnet = detector.slice(arch)
        found = subnet(images)
        assert torch.allclose(found.logits, expected.logits, atol=1e-5), arch.key
        assert torch.allclose(found.boxes_cxcywh, expected.boxes_cxcywh, atol=1e-5), arch.key
        assert torch.allclose(found.mask_logits, expected.mask_logits, atol=1e-4), arch.key
        assert subnet.config.patch == arch.patch and subnet.config.backbone == kind.split("-g")[0]
        again = subnet.slice(subnet.arch)  # a subnet is its own subnet
        assert all(
            torch.equal(value, subnet.state_dict()[name])
            for name, value in again.state_dict().items()
        )


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("factor", [5 / 4, 2])
@torch.no_grad()
def test_enlarged_patches_give_the_same_maps(kind: str, factor: float) -> None:
    """FlexiViT's rule, through the whole backbone: every patch of the picture is enlarged
    bilinearly, and every map stays as it is.
    """
    backbone = small_detector(kind).backbone.double()
    patch = round(16 * factor)
    parts = 4 if kind == "convnext" else 1  # the stem's kernel is a quarter of a patch
    old, new = 16 // parts, patch // parts
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    count = 64 // old
    tiles = images.unflatten(3, (count, old)).unflatten(2, (count, old)).permute(0, 2, 4, 1, 3, 5)
    large = F.interpolate(
        tiles.flatten(0, 2), size=(new, new), mode="bilinear", antialias=True, align_corners=False
    )
    large = large.unflatten(0, (1, count, count)).permute(0, 3, 1, 4, 2, 5)
    enlarged = large.reshape(1, 3, count * new, count * new)
    for found, expected in zip(backbone(enlarged, patch, 1), backbone(images, 16, 1), strict=True):
        assert gap(found, expected) < 1e-6


@pytest.mark.parametrize("kind", [name for name in FIELDS if name != "convnext"])
@torch.no_grad()
def test_windowed_blocks_see_their_window_only(kind: str) -> None:
    """With block 2 global: after block 1 a change in one window stays there, after block 2 it is
    everywhere.
    """
    backbone = small_detector(kind).backbone
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., :16, :16] += 1
    pairs = zip(backbone(images, 16, 2), backbone(changed, 16, 2), strict=True)
    moved = [(a - b).abs().amax(1)[0] > 1e-6 for a, b in pairs]
    assert moved[1][:2, :2].all() and not moved[1][2:, :].any() and not moved[1][:, 2:].any()
    assert moved[2].all()


def test_windows_keep_the_coordinates_of_the_image() -> None:
    whole = rotation((4, 6), 1, 3, 16, 100.0)
    apart = rotation((4, 6), 2, 3, 16, 100.0)
    for one, many in zip(whole, apart, strict=True):
        expected = to_windows(one[:, 3:].unflatten(1, (4, 6)), 2)
        assert torch.equal(many[:, 3:], expected)
    assert bool((apart[0][:, :3] == 1).all()) and bool((apart[1][:, :3] == 0).all())


def test_angles_are_copied_to_a_device_once() -> None:
    """A CUDA graph can hold no copy from the host; the device without memory stands for a GPU."""
    arch = archs_of("dinov3")[0]
    patch, windows = arch.patch, arch.windows
    model = small_detector("dinov3").backbone.to("meta")
    images = torch.zeros(1, 3, *arch.input_hw, device="meta")
    with torch.inference_mode():
        model(images, patch, windows)
    kept = dict(model._on_device)
    assert len(kept) == 1 and not any(
        part.is_inference() for parts in kept.values() for part in parts
    )
    model(images, patch, windows)  # in training
    assert all(model._on_device[key] is parts for key, parts in kept.items())
    model.bfloat16()(images.bfloat16(), patch, windows)
    assert len(model._on_device) == 2


@pytest.mark.parametrize("kind", FIELDS)
def test_training_goes_on_after_an_evaluation(kind: str) -> None:
    """What a backbone keeps from a call in inference mode serves later calls with gradients."""
    backbone = small_detector(kind).backbone
    untouched = copy.deepcopy(backbone)  # never evaluated
    images = torch.randn(1, 3, 80, 48)  # a grid that no other test of this process asks for
    with torch.inference_mode():
        evaluated = backbone(images, 16, 1)
    trained, expected = (one(images, 16, 1) for one in (backbone, untouched))
    for maps in (trained, expected):
        sum(one.square().sum() for one in maps).backward()
    assert all(torch.equal(a, b) for a, b in zip(trained, expected, strict=True))
    for ours, same in zip(backbone.parameters(), untouched.parameters(), strict=True):
        assert (ours.grad is None and same.grad is None) or torch.equal(ours.grad, same.grad)
    for ours, same in zip(evaluated, trained, strict=True):  # inference has products of its own
        torch.testing.assert_close(ours, same, atol=1e-5, rtol=1e-5)
    assert all(p.grad is not None for p in backbone.patch_embed.parameters())


@pytest.mark.parametrize("kind", FIELDS)
def test_recomputed_activations_change_no_gradient(kind: str) -> None:
    detector = small_detector(kind)
    images = torch.randn(1, 3, 64, 64)
    gradients = []
    for again in (False, True):
        detector.zero_grad()
        detector.backbone.checkpoint_activations = again
        sum(one.square().sum() for one in detector.backbone(images, 16, 1)).backward()
        gradients.append(
            [p.grad.clone() for p in detector.backbone.parameters() if p.grad is not None]
        )
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# -- the named value -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIELDS)
def test_files_state_the_backbone(kind: str, tmp_path: Path) -> None:
    detector = small_detector(kind)
    card = ModelCard(detector.config, detector.arch, ("a",) * 18, tuple(range(18)))
    save_detector(tmp_path / "m.safetensors", detector.state_dict(), card)
    again, found, _ = load_supernet(tmp_path / "m.safetensors")
    assert found.config == detector.config
    stated = json.loads(card.to_json())["config"]
    assert stated.get("backbone", "dinov2") == detector.config.backbone
    assert all(
        torch.equal(value, detector.state_dict()[name])
        for name, value in again.state_dict().items()
    )


def test_plain_models_state_what_they_stated_before_there_were_others() -> None:
    """Bytes of files, identities of runs and digests rest on this."""
    added = {
        *("backbone", "registers", "gated", "rope_theta", "conv_depths", "conv_widths"),
        "shared_class_token",
    }
    assert added.isdisjoint(PICO.model.stated())
    assert PICO.model.stated().keys() | added == set(ModelConfig.__dataclass_fields__)
    assert ModelConfig.from_json(json.loads(json.dumps(PICO.model.stated()))) == PICO.model


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("dinov2", {"backbone": "dinov9"}, "unknown backbone 'dinov9'"),
        ("dinov2", {"registers": 4}, "DINOv2 has no registers"),
        ("dinov2", {"gated": True}, "DINOv2 has no gated"),
        ("dinov2-registers", {"registers": 0}, "needs registers"),
        ("dinov2-registers", {"registers": 65}, "registers = 65"),
        ("dinov2", {"conv_widths": (1, 2, 3, 4)}, "has no conv_widths"),
        ("dinov3", {"vit_dim": 36}, "heads of 18 channels"),
        ("dinov3", {"rope_theta": 0.0}, "rope_theta = 0.0"),
        ("convnext", {"global_blocks": (1,)}, "has no global_blocks"),
        ("convnext", {"conv_depths": (1, 2)}, "conv_depths = "),
        ("convnext", {"conv_widths": (8, 16, 24, 48)}, "the width of the last stage"),
        ("convnext", {"feature_stages": (1, 2)}, "cannot bring feature stage 1 to level P4"),
        ("convnext", {"levels": ("P3",)}, "cannot bring feature stage 4 to level P3"),
        ("convnext", {"patch": 14}, "no patches of 14 px"),
    ],
)
def test_what_a_backbone_does_not_have_is_refused(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(small(kind).model, **changes)


def test_architectures_that_a_backbone_cannot_run_are_refused() -> None:
    detector = small_detector("convnext")
    for arch, message in (
        (Arch(64, 16, 2, 2, 10), "no windows"),
        (Arch(70, 10, 1, 2, 10), "multiples of 4"),
    ):
        with pytest.raises(InputError, match=message):
            detector.slice(arch)
        with pytest.raises(InputError, match=message):
            detector(images_for(arch), arch)
        with pytest.raises(InputError, match=message):
            detector.features(images_for(arch), arch.patch, arch.windows)


def test_spaces_and_sizes_follow_the_backbone() -> None:
    space, told = space_for(PAPER_SPACE, "convnext")
    assert space.windows == (1,) and space.patches == (8, 12, 16, 20, 24, 32)
    assert "the patches 10 are left out" in told and "windows 1, 2, 4 become 1" in told
    assert space_for(PAPER_SPACE, "dinov3") == (PAPER_SPACE, "")
    with pytest.raises(InputError, match="none of the patches"):
        space_for(SearchSpace((64,), (10, 14), (1,), (1,), (10,)), "convnext")
    row, told = with_backbone(PRESETS["nano"], backbone_named("convnext-tiny"))
    assert row.arch.key == "r384-p16-w1-d2-q300" and "windows" in told
    with pytest.raises(InputError, match="14 px"):
        with_backbone(PRESETS["base"], backbone_named("convnext-tiny"))
    with pytest.raises(InputError, match="did you mean dinov3-small"):
        backbone_named("dinov3-smal")
    with pytest.raises(InputError, match="multiple of 4"):
        vit_fields("dinov3", 64, 4, 10)


def test_every_layout_is_tested() -> None:
    types = {their_backbone(kind).config.model_type for kind in THEIRS}
    assert types == set(LAYOUTS)


def test_a_model_of_shapes_alone_needs_no_compiler() -> None:
    """A file is compared with such a model before it is loaded; PyTorch's compiler would double the
    time that the imports of every command take.
    """
    program = (
        "import sys; import torch; from samples_backbones import FIELDS, small; "
        "from rfdetr_repro.model.detector import Detector\n"
        "for kind in FIELDS:\n"
        "    row = small(kind, masks=True)\n"
        "    with torch.device('meta'): found = Detector(row.model, row.arch)\n"
        "    assert all(one.is_meta for one in found.parameters()), kind\n"
        "    assert 'torch._dynamo' not in sys.modules, kind\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
