"""Parameters and GFLOPs of the baselines beside those that their authors state.

Each model is counted in the form, and by the counter, that comes nearest to what its authors did;
where a number still differs, the reason is stated if it is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.baseline import HasCounts, HasModule
from rfdetr_repro.baselines.catalog import Entry
from rfdetr_repro.paper.costs import compare
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .counters import flopcountermode, weight_products

COLUMNS = ("model", "params M", "counted", "GFLOPs", "counted", "counter", "state")
# counters in another process, the one nearest to the authors' first
BY_PACKAGE = ("ultralytics", "products with weights", "flopcountermode")
# by the model's name, or by its family, "-seg" behind the family of a model with masks
WHY = {
    "rtdetr-r50m": "the authors count three decoder layers that no evaluation runs",
    "rtdetrv2-r50m": "the authors count three decoder layers that no evaluation runs",
    "lwdetr": "the authors' GFLOPs are of a program that they do not name",
    "yolo12": "the authors count with fused attention, whose products their counter does not see",
    "yolov8": "presumably the authors' older counter",
    "yolov8-seg": "presumably the authors' older counter",
    "yolo11": "presumably the authors' older counter",
    "yolo11-seg": "presumably the authors' older counter",
    "rtdetr": "the authors' counter is not documented; their deployed form has fewer operations",
    "rtdetrv2": "the authors' counter is not documented; their deployed form has fewer operations",
    "deimv2": "the authors' counter adds the elementwise operations that it sees",
    "dfine": "the authors' counter (calflops) does not see all products",
}


class Counted(NamedTuple):
    """Parameters, floating-point operations of one image, and how they were counted."""

    params: int
    flops: float
    how: str


class Stated(NamedTuple):
    """A model's row: what its authors state, None where they state nothing; what was counted, or
    why nothing was.
    """

    name: str
    params_m: float | None
    gflops: float | None
    counted: Counted | None
    reason: str

    @property
    def state(self) -> str:
        """Each number's state, in words."""
        if self.counted is None:
            return f"not counted: {self.reason}"
        found = {
            "params": (self.params_m, self.counted.params / 1e6),
            "GFLOPs": (self.gflops, self.counted.flops / 1e9),
        }
        states = [
            f"{key} {_state(stated, counted)}"
            for key, (stated, counted) in found.items()
            if stated is not None
        ]
        told = ", ".join(states) or "the authors state nothing"
        return f"{told} ({self.reason})" if "differ" in told and self.reason else told

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of COLUMNS."""
        counted = self.counted
        params = "-" if counted is None else f"{counted.params / 1e6:.3f}"
        gflops = "-" if counted is None else f"{counted.flops / 1e9:.3f}"
        how = "-" if counted is None else counted.how
        return (
            self.name,
            _text(self.params_m),
            params,
            _text(self.gflops),
            gflops,
            how,
            self.state,
        )


def stated(names: Sequence[str]) -> Iterator[Stated]:
    """One row for every model; a model that cannot be counted here says why, and the others go on.

    Raises :class:`InputError` for a name that is not known.
    """
    for name in names:
        known = catalog.entry(name)
        size = known.size
        counted: Counted | None = None
        reason = WHY.get(name, WHY.get(f"{size.family}{'-seg' * size.masks}", ""))
        try:
            counted = _count(known)
        except (InputError, StatedFailure) as error:
            reason = str(error)
        yield Stated(name, size.params_m, size.gflops, counted, reason)


def _count(known: Entry) -> Counted:
    baseline = known.baseline
    if isinstance(baseline, HasCounts):
        if baseline.cannot_count:
            raise InputError(baseline.cannot_count)
        counts = baseline.counts(known.size)
        for counter in BY_PACKAGE:
            if (counter, "deployed") in counts:
                return Counted(*counts[counter, "deployed"], f"{counter}, deployed")
    if not isinstance(baseline, HasModule):
        raise InputError("the model can be counted in its file only, with --counters onnx")
    form = "deployed" if known.size.family in ("dfine", "deimv2") else "evaluated"
    with torch.device("meta"):
        module = catalog.module(known.size.id, form)
        images = torch.empty(1, 3, *known.size.hw)
    params = sum(value.numel() for value in module.parameters())
    if known.size.family != "deimv2":
        return Counted(params, flopcountermode(module, images).flops, f"flopcountermode, {form}")
    # a layer of D-FINE that transformers' port kept and the authors' model does not have
    extra: Any = module.get_submodule("model.model.enc_output")
    surplus = sum(value.numel() for value in extra.parameters())
    operations = weight_products(module, images).flops - _every_token(module, images, extra[0])
    return Counted(params - surplus, operations, f"products with weights, {form}")


def _every_token(module: nn.Module, images: torch.Tensor, layer: nn.Linear) -> float:
    """Operations of ``layer`` on all tokens that it sees in one pass."""
    seen: list[int] = []
    hook = layer.register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    try:
        flopcountermode(module, images)
    finally:
        hook.remove()
    return 2.0 * sum(seen) * layer.out_features


def _state(stated_number: float, counted: float) -> str:
    """Whether ``counted`` has the digits that are stated, or by how much it differs."""
    state = compare(counted, _text(stated_number))
    return state if state != "differs" else f"differ by {counted / stated_number - 1:+.1%}"


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"


def table(rows: Sequence[Stated]) -> str:
    """The rows in columns."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
