"""Every family of transformers with deformable attention, of its published size and with random
weights: are the outputs with ``accelerate`` equal, and how much faster are the attention and the
whole model? The package ``rfdetr`` takes part where it is installed.

CPU time of one thread, plain and accelerated in turns: medians, and the ratio with its 95 %
interval over the rounds. The largest attention of the model is also measured alone, the model's own
function against the operator on the very tensors of that call. So are all attentions of one pass
together: their difference is what the operator saves in a pass.
Run: python -m benchmarks.studies.accelerated_models [FAMILY ...] [--pixels 512] [--seconds 60]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratios import RESAMPLES, Samples, ratio, turns_ms
from rfdetr_repro.ops import accelerate, foreign_forms
from rfdetr_repro.ops.accelerate import BY_NAME
from rfdetr_repro.ops.foreign_forms import FORMS, Form, pairs

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
LABELS, ORDERS = 25, 20  # of PP-DocLayout 2: classes, and classes of its reading order
ATTENTION_ROUNDS = 11
LEAST_ROUNDS = 5
SAME_POINT = 1e-3  # of the image's side: queries that start farther apart are different queries


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
    if family == "lw_detr":  # the default has no level; one level is LW-DETR small
        more["projector_scale_factors"] = [1.0]
    if family == "pp_doclayout_v2":  # the default has no thresholds, without which nothing is read
        more["class_thresholds"] = [0.5] * LABELS
        more["class_order"] = [label % ORDERS for label in range(LABELS)]
        more["num_labels"] = LABELS
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


def floats(outputs: Any) -> dict[str, Tensor]:
    """The floating-point tensors of a model's outputs that a user reads, by name or place."""
    parts = outputs.items() if hasattr(outputs, "items") else enumerate(outputs)
    return {
        str(name): part
        for name, part in parts
        if isinstance(part, Tensor) and part.is_floating_point()
    }


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """The largest difference where the expected outputs are finite, relative to an output's largest
    value where that is above 1; and the number of queries that the two passes rank differently.

    Models that take the best-scored tokens of the encoder as queries exchange two of them where
    their scores differ in the last digits only. Such queries are counted and not compared.
    """
    points = "init_reference_points"
    moved = torch.zeros(0, dtype=torch.bool)
    if points in expected:
        moved = (found[points] - expected[points]).abs().amax(dim=(0, -1)) > SAME_POINT
    differences = []
    for name, other in expected.items():
        finite = torch.isfinite(other)
        part = torch.where(finite, found[name], 0)
        other = torch.where(finite, other, 0)
        if moved.any() and len(moved) in other.shape:
            queries = other.shape.index(len(moved))
            part, other = (
                one.index_select(queries, (~moved).nonzero()[:, 0]) for one in (part, other)
            )
        differences.append(float((part - other).abs().max() / other.abs().max().clamp(min=1)))
    told = f"{float(torch.tensor(differences).max()):.0e}"  # NaN where any is
    return f"{told} ({int(moved.sum())} of {len(moved)} queries moved)" if moved.any() else told


@dataclass(frozen=True)
class Call:
    """A call of a deformable attention: the model's own function, the one in its place, and their
    arguments.
    """

    form: Form
    original: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def argument(self, *names: str) -> Any:
        """The argument with the first of ``names`` that the function has."""
        given = {**dict(zip(self.form.parameters, self.arguments, strict=False)), **self.named}
        return next(given[name] for name in names if given.get(name) is not None)

    def __str__(self) -> str:
        """Queries and levels."""
        sizes = self.argument(
            "value_spatial_shapes_list", "value_spatial_shapes_hw", "value_spatial_shapes"
        )
        levels = "+".join(f"{height}x{width}" for height, width in pairs(sizes))
        return f"{self.argument('sampling_locations').shape[1]} queries, {levels}"


def times_ms(calls: Sequence[Call]) -> dict[str, Samples]:
    """CPU times in ms (ATTENTION_ROUNDS, 1) of the models' own functions on the arguments of all
    ``calls``, and of the functions in their place.
    """

    def plain() -> None:
        for call in calls:
            call.original(*call.arguments, **call.named)

    def ours() -> None:
        for call in calls:
            call.form.call(*call.arguments, **call.named)

    return turns_ms({"plain": plain, "ours": ours}, ATTENTION_ROUNDS, clock=time.process_time)


def saved_ms(times: dict[str, Samples]) -> str:
    """Median of what the operator saves in a round, with its 95 % interval over the rounds."""
    saved = (times["plain"] - times["ours"]).ravel()
    drawn = np.random.default_rng(0).integers(0, len(saved), (RESAMPLES, len(saved)))
    low, high = np.quantile(np.median(saved[drawn], axis=1), (0.025, 0.975))
    return f"{np.median(saved):.1f} ({low:.1f} to {high:.1f})"


def recorded(form: Form, calls: list[Call]) -> Form:
    """``form``, which adds every call to ``calls``. ``accelerate`` compares it with the model's own
    function before the model calls it.
    """
    originals: list[Callable[..., Tensor]] = []

    class Recorded(Form):
        def compare(self, original: Callable[..., Tensor]) -> tuple[float, float]:
            originals.append(original)
            return form.compare(original)

    def call(*arguments: Any, **named: Any) -> Tensor:
        calls.append(Call(form, originals[-1], arguments, named))
        return form.call(*arguments, **named)

    return Recorded(form.name, form.parameters, form.functions, call, form.arguments, form.points)


def attention_calls(run: Callable[[], Any]) -> list[Call]:
    """The attentions during ``run``, which accelerates the model and calls it."""
    calls: list[Call] = []
    forms = {form: recorded(form, calls) for form in FORMS}
    by_name = {name: [forms[form] for form in found] for name, found in BY_NAME.items()}
    with (
        mock.patch.object(foreign_forms, "FORMS", tuple(forms.values())),
        mock.patch.dict(BY_NAME, by_name),
    ):
        run()
    return calls


@torch.no_grad()
def row(family: str, pixels: int, seconds: float) -> str:
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
    calls = attention_calls(ours)
    largest = max(calls, key=lambda call: call.argument("attention_weights").numel())
    with accelerate(model) as done:
        count = len(done.replaced)
    whole = whole_ms(model, plain, seconds)
    return (
        f"| {family} | {count} | {largest_difference(found, expected)} | {largest} | "
        f"{compared(times_ms([largest]), 2, 1)} | {saved_ms(times_ms(calls))} | "
        f"{compared(whole, 0, 3)} |"
    )


def compared(times: dict[str, Samples], of_time: int, of_ratio: int) -> str:
    """Three cells: the median of each and the ratio with its interval, with so many decimals."""
    found = ratio(times["plain"], times["ours"])
    medians = " | ".join(f"{np.median(times[name]):.{of_time}f}" for name in ("plain", "ours"))
    interval = f"({found.low:.{of_ratio}f} to {found.high:.{of_ratio}f})"
    return f"{medians} | {found.median:.{of_ratio}f} {interval}"


def whole_ms(model: Any, run: Callable[[], Any], seconds: float) -> dict[str, Samples]:
    """CPU times in ms (rounds, 1) of ``run``, which calls ``model``, without and with the operator.

    The operator is put in and taken out between the timed calls, so that both run on the same
    weights in memory. One round warms up; the rounds after it take ``seconds`` of CPU time, and
    there are at least LEAST_ROUNDS.
    """
    order = random.Random(0)
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    end = 0.0
    while len(found["ours"]) <= LEAST_ROUNDS or time.process_time() < end:
        for name in order.sample(list(found), len(found)):
            done = accelerate(model) if name == "ours" else None
            started = time.process_time()
            run()
            found[name].append(1e3 * (time.process_time() - started))
            if done is not None:
                done.undo()
        end = end or time.process_time() + seconds
    return {name: np.array(times[1:])[:, None] for name, times in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="families; default all")
    parser.add_argument("--pixels", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--seconds", type=float, default=60, help="CPU time for each whole model")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(
        "| family | attentions | largest difference | largest attention | own ms | operator ms | "
        "ratio | saved in all attentions ms | model ms | accelerated ms | ratio |\n"
        + "|---" * 11
        + "|"
    )
    for family in arguments.families or FAMILIES:
        try:
            print(row(family, arguments.pixels, arguments.seconds), flush=True)
        except ImportError as error:
            print(f"| {family} | not measured: {error} |", flush=True)


if __name__ == "__main__":
    main()
