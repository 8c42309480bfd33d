"""The operators on a GPU: attention forward, backward, both, and fused; masks.

Ours is timed against the formulation by ``grid_sample``, against the operator of Deformable DETR
where :mod:`.original` finds its text, and against torch-ms-deform-attn and deformops where they are
installed: in turns, in random order, as graphs of 50 calls and, at batch 1, also eager. Before
anything is timed, each result is compared with that of ``grid_sample`` in float64; where ours
differs by more than its type allows, the step goes on and then fails, and peers that differ are
noted. The table states the fewest bytes that a call must move (each input read once, each output
written once) and the part of the measured copy rate that the call reaches. Values stay in the L2
cache where they fit, as they do in a decoder layer that has just projected them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import CHANNELS, HEADS, Levels, peers
from benchmarks.gpu_steps import original
from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.timing import (
    CALLS_OF_A_GRAPH,
    Call,
    captured,
    event_ms,
    graphs_of,
    host_ms,
    in_a_row,
    medians,
    samples_ms,
)
from rfdetr_repro import ops
from rfdetr_repro.ops.library import OPERATORS
from rfdetr_repro.records.record import Cost, Latency, ModelId
from rfdetr_repro.spec.protocol import Protocol

ROUNDS = 15
WORKS = ("forward", "backward", "both", "fused")
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES = {"float32": torch.float32, **HALVES}
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
# Pixels between a sample and a pixel's centre, where the slope jumps: rounding picks a side there.
OFF_CENTRES = 0.01
UNCLEAR = 1e-5  # interpolated logits of random masks that rounding may give either sign


class Case(NamedTuple):
    """Sizes of one call; ``spread``: part of the map that the samples of a query fall into."""

    batch: int
    queries: int
    levels: Levels
    points: int
    dtypes: tuple[str, ...] = ("float32",)
    spread: float = 1.0
    eager: bool = False
    grid_sample: bool = True


SMALL: Levels = [(24, 24)]
MIDDLE: Levels = [(36, 36)]
PYRAMID: Levels = [(40, 40), (20, 20), (10, 10)]
CASES = {
    "b16-q3900-24x24": Case(16, 3900, SMALL, 2, tuple(DTYPES)),
    "b16-q3900-36x36": Case(16, 3900, MIDDLE, 2, ("float32", "bfloat16"), grid_sample=False),
    "b4-q3900-36x36": Case(4, 3900, MIDDLE, 2, ("float32", "bfloat16")),
    "b4-q3900-3levels": Case(4, 3900, PYRAMID, 4, ("float32", "bfloat16"), grid_sample=False),
    "b16-q300-24x24": Case(16, 300, SMALL, 2, tuple(DTYPES)),
    "b1-q300-24x24": Case(1, 300, SMALL, 2, tuple(DTYPES), eager=True),
    "b1-q300-36x36": Case(1, 300, MIDDLE, 2, ("float32",), eager=True),
    "b1-q300-3levels": Case(1, 300, PYRAMID, 4, ("float32",), eager=True),
    "b16-q3900-24x24-clustered": Case(16, 3900, SMALL, 2, spread=0.1, grid_sample=False),
}
TOY = {
    "b2-q30-8x8": Case(2, 30, [(8, 8)], 2, tuple(DTYPES), eager=True),
    "b1-q20-2levels": Case(1, 20, [(6, 6), (3, 3)], 4),
}
# masks: how many, side of the map, height and width of the image
MASKS = {"100x108-full-hd": (100, 108, 1080, 1920), "300x78-vga": (300, 78, 480, 640)}
TOY_MASKS = {"3x12": (3, 12, 40, 56)}


@dataclass
class Inputs:
    """Tensors of a case on the device."""

    case: Case
    value: Tensor
    locations: Tensor
    weights: Tensor
    offsets: Tensor
    boxes: Tensor
    logits: Tensor
    upstream: Tensor

    @classmethod
    def of(cls, case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
        """Seeded random inputs; the samples of a query lie ``spread`` of the map around a random
        centre.
        """
        generator = torch.Generator().manual_seed(0)
        pixels = sum(height * width for height, width in case.levels)
        grid = (case.batch, case.queries, HEADS, len(case.levels), case.points)
        value = torch.randn(case.batch, pixels, HEADS, CHANNELS, generator=generator)
        centres = torch.rand(case.batch, case.queries, 1, 1, 1, 2, generator=generator)
        around = torch.rand(*grid, 2, generator=generator)
        locations = off_centres(centres * (1 - case.spread) + around * case.spread, case.levels)
        logits = torch.randn(grid, generator=generator)
        weights = logits.flatten(-2).softmax(-1).view(grid)
        offsets = torch.randn(*grid, 2, generator=generator)
        boxes = torch.rand(case.batch, case.queries, 4, generator=generator) * 0.5 + 0.2
        upstream = torch.randn(case.batch, case.queries, HEADS * CHANNELS, generator=generator)
        small = (tensor.to(device) for tensor in (locations, weights, offsets, boxes, logits))
        return cls(case, value.to(device, dtype), *small, upstream.to(device, dtype))

    def moved(self, work: str) -> int:
        """The fewest bytes that a call of ``work`` moves."""
        read = [self.value]
        if work == "fused":
            read += [self.offsets, self.boxes, self.logits]
        else:
            read += [self.locations, self.weights]
        written = [self.upstream]  # the output has its shape and type
        if work == "backward":
            read, written = [*read, self.upstream], [self.value, self.locations, self.weights]
        return sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))


def off_centres(locations: Tensor, levels: Levels) -> Tensor:
    """The locations, those close to the middle of a row or column of pixels moved away from it."""
    sides = torch.tensor([[width, height] for height, width in levels])[:, None]  # (L, 1, 2)
    at = locations.double() * sides - 0.5
    share = (at - at.floor()).clamp(OFF_CENTRES, 1 - OFF_CENTRES)
    return ((at.floor() + share + 0.5) / sides).to(locations.dtype)


def exact_of(inputs: Inputs, wanted: Sequence[str] = WORKS) -> dict[str, list[Tensor]]:
    """Work -> results by ``grid_sample`` in float64, on the same numbers, of the works that are
    wanted; a gradient comes with its forward pass.
    """
    levels = inputs.case.levels
    found: dict[str, list[Tensor]] = {}
    gradient = "backward" in wanted or "both" in wanted
    if gradient or "forward" in wanted:
        given = (inputs.value, inputs.locations, inputs.weights)
        wide = [tensor.double().requires_grad_(gradient) for tensor in given]
        out = ops.ms_deform_attn_reference(wide[0], levels, *wide[1:])
        found["forward"] = [out.detach()]
        if gradient:
            gradients = list(torch.autograd.grad(out, wide, inputs.upstream.double()))
            found |= {"backward": gradients, "both": gradients}
    if "fused" in wanted:
        predicted = (inputs.value, inputs.offsets, inputs.boxes, inputs.logits)
        value, *others = (tensor.double() for tensor in predicted)
        with torch.no_grad():
            found["fused"] = [ops.ms_deform_attn_fused_reference(value, levels, *others)]
    return found


def works(inputs: Inputs, peer: original.Original | None) -> dict[str, dict[str, Call]]:
    """Work -> who -> call."""
    levels = inputs.case.levels
    value, locations, weights = inputs.value, inputs.locations, inputs.weights
    flat = [side for size in levels for side in size]
    tracked = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]

    def forward_of(op: Callable[..., Tensor]) -> Call:
        def call() -> Tensor:
            with torch.no_grad():
                return op(value, levels, locations, weights)

        return call

    def gradient_of(op: Callable[..., Tensor]) -> Call:
        def call() -> Any:
            out = op(tracked[0], levels, *tracked[1:])
            return torch.autograd.grad(out, tracked, inputs.upstream.to(out.dtype))

        return call

    others = peers(value.device.type)
    if not inputs.case.grid_sample:
        del others["grid_sample"]
    backward = OPERATORS.ms_deform_attn_backward.default
    found: dict[str, dict[str, Call]] = {
        "forward": {
            "ours": forward_of(ops.ms_deform_attn),
            **{name: forward_of(op) for name, op in others.items()},
        },
        "backward": {
            "ours": lambda: backward(inputs.upstream, value, flat, locations, weights, False)
        },
        "both": {
            "ours": gradient_of(ops.ms_deform_attn),
            **{name: gradient_of(op) for name, op in others.items()},
        },
    }
    if peer is not None and value.dtype == torch.float32:
        found["forward"]["original"] = peer.forward(levels, value, locations, weights)
        found["backward"]["original"] = peer.backward(
            levels, inputs.upstream, value, locations, weights
        )
    fused = {"ours": ops.ms_deform_attn_fused}
    if inputs.case.grid_sample:
        fused["grid_sample"] = ops.ms_deform_attn_fused_reference
    found["fused"] = {name: fused_of(op, inputs) for name, op in fused.items()}
    return found


def fused_of(op: Callable[..., Tensor], inputs: Inputs) -> Call:
    """A call of the operator that takes offsets, boxes and logits."""

    def call() -> Tensor:
        with torch.no_grad():
            return op(inputs.value, inputs.case.levels, inputs.offsets, inputs.boxes, inputs.logits)

    return call


def difference(result: Any, exact: list[Tensor]) -> float:
    """The largest difference of a call's results from the exact ones, relative to their size: of
    their norms, or of a single number to the largest. Infinite where one is not a number.
    """
    worst = 0.0
    for found, wanted in zip(_flat(result), exact, strict=True):
        gap = found.double() - wanted
        overall = gap.norm() / wanted.norm()
        single = gap.abs().max() / wanted.abs().max()
        larger = max(float(overall), float(single))
        worst = max(worst, larger if larger == larger else float("inf"))
    return worst


def agree(
    step: Step,
    calls: dict[str, Call],
    exact: list[Tensor],
    dtype: torch.dtype,
    what: str,
    notes: list[str],
) -> dict[str, str]:
    """Who -> how far the results are from the exact ones, in words. Ours is wrong where that is
    more than the type allows; of a peer, ``notes`` say so.
    """
    found = {}
    for name, call in calls.items():
        gap = difference(call(), exact)
        found[name] = f"relative difference from grid_sample in float64 {gap:.1e}"
        if gap <= AGREEMENT[dtype]:
            continue
        told = f"{what}: {name} has a {found[name]}, allowed {AGREEMENT[dtype]:.0e}"
        if name == "ours":
            step.wrong(told)
        else:
            notes.append(told)
    return found


def _flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def measured(
    step: Step,
    calls: dict[str, Call],
    what: str,
    eager: bool,
    notes: list[str],
    agreement: dict[str, str],
) -> dict[str, dict[str, float]]:
    """Mode -> who -> median time in ms of one call, each also as a Record with its agreement.
    Without a GPU, calls in a row stand for a graph.
    """
    rounds = 2 if step.toy else ROUNDS
    modes: dict[str, tuple[dict[str, Call], int, int]] = {}
    measure = event_ms if step.on_gpu else host_ms
    if eager:
        modes["eager"] = calls, 2 if step.toy else 20, 1
    size = CALLS_OF_A_GRAPH if step.on_gpu else 2
    capture = captured if step.on_gpu else in_a_row
    modes["graph"] = graphs_of(calls, notes, what, size, capture), 1, size
    found = {}
    for mode, (there, repeats, size) in modes.items():
        samples = samples_ms(there, measure, rounds=rounds, repeats=repeats, until_s=1.5)
        found[mode] = {name: ms / size for name, ms in medians(samples).items()}
        for name, ms in found[mode].items():
            count = len(samples[name])
            protocol = Protocol(
                "sustained", "device", 0.0, min_samples=count, max_samples=count, threads=1
            )
            step.record(
                ModelId("operator", f"{what} {mode}", variant=name, weights="random"),
                Latency(ms, num_samples=count, cuda_graph=mode == "graph" and step.on_gpu),
                protocol,
                cost=Cost(),
                agreement=agreement.get(name),
            )
    return found


def told(times: dict[str, float], moved: int, copy_rate: float) -> str:
    """Ours, the floor, and the others as multiples of ours."""
    ours = times["ours"]
    floor = moved / copy_rate
    text = f"{1e3 * ours:9.2f} us, {moved / 1e6:.1f} MB: "
    text += f"floor {1e6 * floor:.1f} us, {1e5 * floor / ours:.0f} %"
    others = [f"{name} {ms / ours:.2f}x" for name, ms in times.items() if name != "ours"]
    return text + ("; " + ", ".join(others) if others else "")


def copy_rate(step: Step) -> float:
    """Bytes per second of a large copy."""
    size = 2**20 if step.toy else 2**30
    source = torch.empty(size, dtype=torch.uint8, device=step.device).random_()
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    measure = event_ms if step.on_gpu else host_ms
    return 2 * size / (1e-3 * measure(lambda: target.copy_(source), 10))


def attention(step: Step, rate: float, notes: list[str]) -> None:
    """Every case, type and work."""
    peer = _peer(step, notes)
    for name, case in (TOY if step.toy else CASES).items():
        for dtype_name in case.dtypes:
            if step.left_s < 8:
                notes.append(f"{name} {dtype_name}: left out, the step's time is over")
                continue
            dtype = DTYPES[dtype_name]
            inputs = Inputs.of(case, dtype, step.device)
            exact = exact_of(inputs)
            for work, calls in works(inputs, peer).items():
                what = f"{work} {name} {dtype_name}"
                runnable = _runnable(calls, notes, what)
                gaps = agree(step, runnable, exact[work], dtype, what, notes)
                modes = measured(step, runnable, what, case.eager, notes, gaps)
                for mode, times in modes.items():
                    if "ours" in times:
                        line = told(times, inputs.moved(work), rate)
                        step.say(f"{name:<26} {dtype_name:<8} {work:<8} {mode:<5} {line}")


def masks(step: Step, rate: float, notes: list[str]) -> None:
    """Masks of the whole picture from logits, as bytes and as bits."""
    for name, (count, side, height, width) in (TOY_MASKS if step.toy else MASKS).items():
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(count, 1, 7, 7, generator=generator)
        logits = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0]
        logits = logits.contiguous().to(step.device)

        def chain(logits: Tensor = logits, size: tuple[int, int] = (height, width)) -> Tensor:
            large = torch.nn.functional.interpolate(logits[:, None], size=size, mode="bilinear")
            return large[:, 0] > 0

        calls: dict[str, Call] = {
            "ours": lambda a=logits, h=height, w=width: ops.masks_from_logits(a, h, w),
            "interpolate": chain,
            "packed": lambda a=logits, h=height, w=width: ops.masks_from_logits(
                a, h, w, packed=True
            ),
        }
        agreement = masks_agree(step, calls, logits, (height, width), f"masks {name}")
        modes = measured(step, calls, f"masks {name}", True, notes, agreement)
        for mode, times in modes.items():
            moved = logits.numel() * 4 + count * height * width
            step.say(f"{name:<26} {'float32':<8} {'masks':<8} {mode:<5} {told(times, moved, rate)}")


def masks_agree(
    step: Step, calls: dict[str, Call], logits: Tensor, size: tuple[int, int], what: str
) -> dict[str, str]:
    """Who -> how many pixels are unlike those of ``interpolate``, in words. A pixel whose logit is
    not zero but for rounding must be alike, and the packed bits must be those of the bytes.
    """
    large = torch.nn.functional.interpolate(logits[:, None], size=size, mode="bilinear")[:, 0]
    ours = calls["ours"]()
    unlike = ours != (large > 0)
    count = int(unlike.sum())
    clearly = int((unlike & (large.abs() > UNCLEAR)).sum())
    if clearly:
        step.wrong(f"{what}: {clearly} of {unlike.numel()} pixels are unlike interpolate's")
    bits = calls["packed"]()
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    unpacked = ((bits[..., None] >> places) & 1).flatten(-2)[..., : size[1]]
    if int((unpacked.bool() != ours).sum()):
        step.wrong(f"{what}: the packed bits are not those of the bytes")
    text = f"{count} of {unlike.numel()} pixels unlike interpolate's"
    return {"ours": text, "packed": text}


def _peer(step: Step, notes: list[str]) -> original.Original | None:
    reason = original.absent() if step.on_gpu else "there is no CUDA device"
    if reason is None:
        major, minor = torch.cuda.get_device_capability()
        try:
            folder = Path(tempfile.mkdtemp())
            return original.Original(original.build(folder, f"{major}{minor}"))
        except (RuntimeError, OSError) as error:
            reason = str(error)
    notes.append(f"the original operator is left out: {reason}")
    return None


def _runnable(calls: dict[str, Call], notes: list[str], what: str) -> dict[str, Call]:
    """Those that can do this work: a peer may refuse a type or a number of points."""
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = call
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            if name == "ours":
                raise
            first = next(iter(str(error).splitlines()), type(error).__name__)
            notes.append(f"{what}: {name} cannot ({first[:120]})")
    return found


def main() -> None:
    """Measures attention and masks."""
    step = Step.of("operators", __doc__)
    notes: list[str] = []
    rate = copy_rate(step)
    step.say(f"copy: {rate / 1e12:.2f} TB/s read and written")
    masks(step, rate, notes)
    attention(step, rate, notes)
    for note in notes:
        step.say(f"note: {note}")
    step.end()


if __name__ == "__main__":
    main()
