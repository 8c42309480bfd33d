"""Every size against its published or measured parameter count and GFLOPs (architecture facts
section 2).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import CONVENTIONS, flops_by_part, total_flops
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import PICO, PRESETS

# size: total M, deploy M, encoder M, projector M, decoder M, mask head M, eager G, graph G, graph G
# without attention; as printed
MEASURED = {
    "nano": ("30.467", "26.864", "21.821", "1.445", "3.141", None, "31.9", "31.8", "28.9"),
    "small": ("32.111", "28.508", "21.993", "1.445", "4.613", None, "59.8", "59.6", "50.8"),
    "medium": ("33.687", "30.084", "22.098", "1.445", "6.085", None, "78.8", "78.5", "64.5"),
    "large": ("33.933", "30.330", "22.343", "1.445", "6.085", None, "125.6", "125.3", "94.6"),
    "xlarge": ("126.357", "114.447", "86.940", "5.773", "20.167", None, "299.3", "298.3", "242.0"),
    "2xlarge": ("126.903", "114.993", "87.486", "5.773", "20.167", None, "438.4", "437.6", "376.0"),
    "base": ("32.175", "28.571", "22.057", "1.445", "4.613", None, "96.6", "96.4", "78.0"),
    "large-deprecated": (
        "135.637",
        "128.470",
        "86.580",
        "32.457",
        "8.503",
        None,
        None,
        "402.7",
        "366.2",
    ),
    "seg-preview": ("34.154", "30.862", "21.969", "1.445", "6.085", "0.933", None, "86.1", "72.3"),
    "seg-nano": ("33.577", "30.598", "21.731", "1.445", "6.085", "0.933", "50.0", "45.8", "37.3"),
    "seg-small": ("33.711", "30.731", "21.864", "1.445", "6.085", "0.933", "70.6", "64.5", "55.9"),
    "seg-medium": (
        "35.694",
        "32.403",
        "21.969",
        "1.445",
        "7.557",
        "1.002",
        "102.0",
        "88.4",
        "74.6",
    ),
    "seg-large at 200 queries": (
        "35.874",
        "32.582",
        "22.148",
        "1.445",
        "7.557",
        "1.002",
        "143.6",
        "125.8",
        "100.3",
    ),
    "seg-large": ("36.212", "32.608", "22.148", "1.445", "7.557", "1.002", "151.1", None, None),
    "seg-xlarge": (
        "38.114",
        "34.510",
        "22.509",
        "1.445",
        "9.029",
        "1.071",
        "260.0",
        "219.1",
        "159.4",
    ),
    "seg-2xlarge": (
        "38.648",
        "35.045",
        "23.044",
        "1.445",
        "9.029",
        "1.071",
        "435.3",
        "374.5",
        "238.4",
    ),
}
# their graphs were counted with the 366 logits of upstream's configuration
GRAPH_CLASSES = {"xlarge": 366, "2xlarge": 366}


def size(name: str) -> tuple[ModelConfig, Arch]:
    if name == "seg-large at 200 queries":
        row = PRESETS["seg-large"]
        return replace(row.model, queries=200), replace(row.arch, queries=200)
    return PRESETS[name].model, PRESETS[name].arch


def millions(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.3f}"


@pytest.mark.parametrize("name", MEASURED)
def test_parameters(name: str) -> None:
    model, arch = size(name)
    total, deploy, encoder, projector, decoder, masks = MEASURED[name][:6]
    with torch.device("meta"):
        whole = Detector(model, arch)
        deployed = Detector(replace(model, groups=1), arch)
    mask_token = model.vit_dim  # stored by every released file, used by nothing
    assert f"{(whole.num_params() + mask_token) / 1e6:.3f}" == total
    assert f"{(deployed.num_params() + mask_token) / 1e6:.3f}" == deploy
    assert (
        f"{(sum(p.numel() for p in whole.backbone.parameters()) + mask_token) / 1e6:.3f}" == encoder
    )
    assert millions(whole.projector) == projector
    tables = whole.decoder.query_feat.numel() + whole.decoder.refpoint_embed.numel()
    assert f"{(sum(p.numel() for p in whole.decoder.parameters()) - tables) / 1e6:.3f}" == decoder
    assert (None if whole.mask_head is None else millions(whole.mask_head)) == masks


@pytest.mark.parametrize("name", MEASURED)
def test_gflops_of_both_upstream_conventions(name: str) -> None:
    model, arch = size(name)
    eager, graph, without_attention = MEASURED[name][6:]
    exported = flops_by_part(replace(model, num_classes=GRAPH_CLASSES.get(name, 91)), arch, "graph")
    fused = sum(value for part, value in exported.items() if "attention" not in part)
    if eager is not None:
        assert f"{total_flops(model, arch, 'eager') / 1e9:.1f}" == eager
    if graph is not None:
        assert f"{sum(exported.values()) / 1e9:.1f}" == graph
        assert f"{fused / 1e9:.1f}" == without_attention


CORNERS = [
    (PICO.model, PICO.arch),
    (PICO.model, Arch(120, 12, 2, 1, 10)),
    (PICO.model, Arch(96, 16, 1, 0, 25)),
    (
        replace(PICO.model, masks=False, levels=("P3", "P5"), feature_stages=(1, 2, 3)),
        Arch(128, 16, 2, 2, 25),
    ),
    # 7 x 7 tokens: P5 rounds up
    (replace(PICO.model, masks=False, levels=("P4", "P5")), Arch(112, 16, 1, 2, 25)),
    (PRESETS["nano"].model, PRESETS["nano"].arch),
    (PICO.model, Arch(96, 16, 2, 2, 25, 160)),
    (replace(PICO.model, masks=False, levels=("P3", "P4", "P5")), Arch(112, 16, 1, 2, 25, 80)),
]


@pytest.mark.parametrize(("model", "arch"), CORNERS)
def test_deploy_flops_are_those_pytorch_counts(model: ModelConfig, arch: Arch) -> None:
    """The formula against a count of one real forward pass of the sliced subnet."""
    with torch.device("meta"):
        fit = replace(
            model, groups=1, patch=arch.patch, pos_grid=arch.grid_hw, queries=arch.queries
        )
        subnet = Detector(fit, arch).eval()
        images = torch.empty(1, 3, *arch.input_hw)
        with (
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            outputs = subnet(images)
            _ = outputs.mask_logits
    assert counter.get_total_flops() == total_flops(model, arch)


def test_conventions_are_ordered_and_named() -> None:
    model, arch = size("seg-nano")
    eager, graph, deploy = (total_flops(model, arch, convention) for convention in CONVENTIONS)
    assert eager > graph > deploy
    with pytest.raises(InputError, match="choose one of eager"):
        total_flops(model, arch, "published")
