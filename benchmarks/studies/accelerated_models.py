"""Every family of transformers with deformable attention, of its published size and with random
weights: are the outputs with ``accelerate`` equal, and how much faster are the attention and the
whole model? The package ``rfdetr`` takes part where it is installed.

CPU time of one thread, plain and accelerated in turns, the best of the rounds; ``attention`` is the
largest call of the model, transformers' own function against the operator on the very tensors of
that call.
Run: python -m benchmarks.studies.accelerated_models [FAMILY ...] [--pixels 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.ops import accelerate, foreign_forms, ms_deform_attn

DETECTORS = {  # name of the family -> prefix of its classes
    "rt_detr": "RTDetr",
    "rt_detr_v2": "RTDetrV2",
    "d_fine": "DFine",
    "deimv2": "Deimv2",
    "pp_doclayout_v2": "PPDocLayoutV2",
    "pp_doclayout_v3": "PPDocLayoutV3",
    "pp_doclayout_v4": "PPDocLayoutV4",
    "deformable_detr": "DeformableDetr",
    "lw_detr": "LwDetr",
    "grounding_dino": "GroundingDino",
    "mm_grounding_dino": "MMGroundingDino",
    "omdet_turbo": "OmDetTurbo",
}
SEGMENTERS = {"mask2former": "Mask2Former", "oneformer": "OneFormer"}
FAMILIES = ["rf_detr", "rfdetr", *DETECTORS, *SEGMENTERS]
NANO = 384  # pixels per side of RF-DETR Nano


def build(family: str) -> Any:
    """The family's model with its default configuration."""
    import transformers

    torch.manual_seed(0)
    if family == "rf_detr":
        from rfdetr_repro.baselines.rf_detr_transformers import adapter
        from rfdetr_repro.spec.presets import PRESETS

        nano = PRESETS["nano"]
        return adapter.build(nano.model, nano.arch.windows).eval()
    if family == "rfdetr":
        from rfdetr import RFDETRNano

        return RFDETRNano(pretrain_weights=None, device="cpu").model.model.eval()
    prefix = {**DETECTORS, **SEGMENTERS}[family]
    more: dict[str, Any] = {}
    if family == "deformable_detr":  # the backbone of the default is in timm
        more["backbone_config"] = transformers.ResNetConfig(
            out_features=["stage2", "stage3", "stage4"]
        )
    if family == "omdet_turbo":
        more["backbone_config"] = transformers.SwinConfig(out_indices=[2, 3, 4])
        more["apply_layernorm_after_vision_backbone"] = False
    config = getattr(transformers, f"{prefix}Config")(**more)
    end = "ForUniversalSegmentation" if family in SEGMENTERS else "ForObjectDetection"
    return getattr(transformers, prefix + end)(config).eval()


def inputs(family: str, pixels: int) -> dict[str, Any]:
    """An image of ``pixels`` per side, and tokens where the family reads them."""
    if family == "rfdetr":
        return {"samples": torch.randn(1, 3, NANO, NANO)}
    if family in ("rf_detr", "omdet_turbo"):
        pixels = NANO if family == "rf_detr" else 640
    found: dict[str, Any] = {"pixel_values": torch.randn(1, 3, pixels, pixels)}
    if "grounding" in family:
        found["input_ids"] = torch.tensor([[101, 7592, 1012, 2088, 1012, 102]])
    if family == "oneformer":
        found["task_inputs"] = torch.randint(1, 1000, (1, 77))
    if family == "omdet_turbo":
        found["classes_input_ids"] = torch.tensor([[49406, 320, 49407], [49406, 530, 49407]])
        found["classes_attention_mask"] = torch.ones(2, 3, dtype=torch.long)
        found["classes_structure"] = torch.tensor([2])
        found["tasks_input_ids"] = torch.tensor([[49406, 320, 530, 49407]])
        found["tasks_attention_mask"] = torch.ones(1, 4, dtype=torch.long)
    return found


def floats(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a model's outputs that a user reads."""
    parts = outputs.values() if hasattr(outputs, "values") else outputs
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


def largest_call(run: Callable[[], Any]) -> tuple[Any, ...]:
    """The arguments of the operator's call with most samples during ``run``."""
    calls: list[tuple[Any, ...]] = []

    def recorded(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return ms_deform_attn(*arguments)

    foreign_forms.ms_deform_attn = recorded  # type: ignore[assignment]
    try:
        run()
    finally:
        foreign_forms.ms_deform_attn = ms_deform_attn
    return max(calls, key=lambda call: call[3].numel())


def cpu_ms(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least CPU time of each call in ms, in turns of random order; one more round warms up."""
    order = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name in order.sample(list(calls), len(calls)):
            started = time.process_time()
            calls[name]()
            found[name].append(1e3 * (time.process_time() - started))
    return {name: min(times[1:]) for name, times in found.items()}


def attention_ms(call: tuple[Any, ...], rounds: int) -> dict[str, float]:
    """CPU time of transformers' function and of the operator on the tensors of ``call``."""
    from transformers.models.deformable_detr import modeling_deformable_detr as library

    value, sizes, locations, weights = call
    theirs = library.MultiScaleDeformableAttention()
    return cpu_ms(
        {
            "plain": lambda: theirs(value, None, sizes, None, locations, weights, 64),
            "ours": lambda: ms_deform_attn(value, sizes, locations, weights),
        },
        rounds,
    )


@torch.no_grad()
def row(family: str, pixels: int, rounds: int) -> str:
    """A line of the table."""
    model = build(family)
    given = inputs(family, pixels)

    def plain() -> Any:
        return model(**given)

    def ours() -> Any:
        with accelerate(model):
            return model(**given)

    expected = floats(plain())
    found = floats(ours())
    difference = max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1))
        for one, other in zip(found, expected, strict=True)
        if torch.isfinite(other).all()
    )
    call = largest_call(ours)
    attention = attention_ms(call, 5 * rounds)
    with accelerate(model) as done:
        count = len(done.replaced)
    whole = whole_ms(model, plain, rounds)
    queries = call[2].shape[1]
    levels = "+".join(f"{height}x{width}" for height, width in call[1])
    return (
        f"| {family} | {count} | {difference:.0e} | {queries} queries, {levels} | "
        f"{attention['plain']:.2f} | {attention['ours']:.2f} | "
        f"{attention['plain'] / attention['ours']:.1f} | {whole['plain']:.0f} | "
        f"{whole['ours']:.0f} | {whole['plain'] / whole['ours']:.2f} |"
    )


def whole_ms(model: Any, run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """:func:`cpu_ms` of ``run``, which calls ``model``, without and with the operator, which is
    put in and taken out between the timed calls: a second model would cost memory.
    """
    order = random.Random(0)
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(rounds + 1):
        for name in order.sample(list(found), len(found)):
            done = accelerate(model) if name == "ours" else None
            started = time.process_time()
            run()
            found[name].append(1e3 * (time.process_time() - started))
            if done is not None:
                done.undo()
    return {name: min(times[1:]) for name, times in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="families; default all")
    parser.add_argument("--pixels", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(
        "| family | attentions | largest difference | largest attention | own ms | operator ms | "
        "ratio | model ms | accelerated ms | ratio |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for family in arguments.families or FAMILIES:
        try:
            print(row(family, arguments.pixels, arguments.rounds), flush=True)
        except ImportError as error:
            print(f"| {family} | not measured: {error} |", flush=True)


if __name__ == "__main__":
    main()
