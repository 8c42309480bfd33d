"""What searching the paper's space on a T4 would take, part by part: from counted operations,
published rates, stated assumptions, and the parts that benchmarks/studies/search_parts.py timed.

    python -m benchmarks.studies.search_projection --records results/search_cost.jsonl \
        [--out docs/search_cost.md]

Operations: our counter, which gives the printed GFLOPs of every released size. Rate: the slowest of
the paper's own RF-DETR rows (GFLOPs over TensorRT FP16 latency, Table 2) as a part of the card's
FP16 peak, applied to its FP32 peak, because passes run in float32: a batch of images in PyTorch
should do no worse. Times of the CPU are those of this machine, one thread. What a T4 would do and
nobody here has seen is an argument. Each row of the page is stored as a Record with a modelled time
beside the timed parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.studies.search_parts import (
    CAMPAIGN,
    DECIDING,
    DECODING,
    EXPORTING,
    IMAGES,
    PASSES,
    PASSING,
    RESIZING,
    SCORED_IMAGES,
    SCORING,
    SIDES,
    groups,
    timed_places,
)
from benchmarks.studies.search_plan import PLANNED, plan_section
from rfdetr_repro.paper.published import published_rows
from rfdetr_repro.records.record import Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.plan import rounds_s
from rfdetr_repro.search.race import Rules, stage_ends
from rfdetr_repro.search.rounds import short_form
from rfdetr_repro.spec.campaign import COCO
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET

# peak operations a second, NVIDIA's T4 data sheet
T4_FP16 = 65e12
T4_FP32 = 8.1e12
# ten more than the campaign confirms, so that confirmation is rather stated too dear than too cheap
CANDIDATES = COCO.candidates + 10
PUBLISHED_HOURS = 10_000  # of one T4, for all configurations (v2 Appendix)
ON_T4 = "a T4, projected"
ON_CPU = "one CPU thread, projected"
HOUR_MS = 3.6e6


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a T4 and of the search; nothing here was measured on a T4."""

    build_s: float  # building a TensorRT engine
    engines: int  # of the latency model
    candidates: int  # confirmed configurations
    builds: int  # of each confirmed file
    file_ms: float  # latency of a confirmed file, mean over the frontier
    race_passes: float  # share of the passes and evaluations that a race makes


class Row(NamedTuple):
    """A row of the page; ``hours`` is None for a row that is no time."""

    name: str
    figure: str
    origin: str
    hours: float | None = None
    where: str = ""


def published_share() -> float:
    """Lowest part of the T4's FP16 peak that an RF-DETR row of Table 2 reaches."""
    rows = [row for row, _ in published_rows("2") if row["model"] == "RF-DETR"]
    return (
        min(float(row["gflops"]) * 1e9 / (float(row["latency_ms"]) / 1e3) for row in rows) / T4_FP16
    )


def parts_of(
    records: Sequence[Record], given: Mapping[str, float] | None = None
) -> dict[str, Latency]:
    """Name -> time of the timed parts. ``given``: milliseconds of parts that were timed elsewhere,
    which stand in for missing ones. Passes on this machine may be missing; :class:`InputError` is
    raised for any other missing part.
    """
    found = {
        str(record.model.variant): record.latency
        for record in records
        if record.campaign == CAMPAIGN and record.latency and _measured(record)
    }
    for name, ms in (given or {}).items():
        found.setdefault(name, Latency(ms, method="modelled"))
    needed = [
        DECODING,
        SCORING,
        DECIDING,
        EXPORTING,
        *(RESIZING.format(side=side) for side in SIDES),
    ]
    if missing := [name for name in needed if name not in found]:
        raise InputError(
            f"no time of {missing[0]}",
            "--records",
            "python -m benchmarks.studies.search_parts --out FILE",
        )
    return found


def rows_of(parts: Mapping[str, Latency], assumed: Assumed) -> list[Row]:
    """The rows of the page."""
    known = groups()
    shared = sum(flops for flops, _ in known)
    alone = sum(
        total_flops(PAPER_SUPERNET.model, arch, "eager") for _, group in known for arch in group
    )
    size = len(PAPER_SPACE)
    share = published_share()
    rate = share * T4_FP32
    per_second = 1e-3 / 3600  # hours of a millisecond

    def ms(name: str) -> float:
        return parts[name].median_ms

    passes = shared * IMAGES / rate / 3600
    decoding = IMAGES * ms(DECODING) * per_second
    resizing = _resizing_ms(parts, known) * IMAGES * per_second
    scored_ms = ms(SCORING) * IMAGES / SCORED_IMAGES
    scoring = size * scored_ms * per_second
    *stages, last = stage_ends(IMAGES, Rules())
    deciding = size * ms(DECIDING) * (sum(stages) + last / Rules().resamples) * per_second
    protocols = COCO.protocols
    short_s = rounds_s(short_form(COCO.decision))
    engine_s = ms(EXPORTING) / 1e3 + assumed.build_s + short_s
    latency = assumed.engines * engine_s / 3600
    full_s = sum(
        min(one.timeout_s, one.max_samples * (one.buffer_ms + assumed.file_ms) / 1e3)
        for one in protocols
    )
    file_s = IMAGES * (assumed.file_ms + ms(DECODING) + ms(RESIZING.format(side=640))) / 1e3
    candidate_s = (
        ms(EXPORTING) / 1e3 + assumed.builds * (assumed.build_s + full_s) + file_s + scored_ms / 1e3
    )
    confirming = assumed.candidates * candidate_s / 3600
    whole = passes + decoding + resizing + scoring + latency + confirming
    raced = whole - (1 - assumed.race_passes) * (passes + resizing + scoring) + deciding
    single = (
        alone * IMAGES / rate / 3600
        + size * (scored_ms + IMAGES * ms(RESIZING.format(side=640))) * per_second
        + size * engine_s / 3600
    )
    rows = [
        Row(
            "operations of one image, one by one",
            f"{alone / 1e12:,.0f} TFLOP",
            f"counted, {size:,} configurations",
        ),
        Row(
            "the same, shared",
            f"{shared / 1e12:,.1f} TFLOP, {alone / shared:.1f}x fewer",
            f"counted, {len(known)} backbones",
        ),
        Row(
            "rate of a T4 in float32",
            f"{rate / 1e12:.2f} TFLOP/s",
            f"**assumed**: {share:.0%} of the peak, the lowest of Table 2's RF-DETR rows in FP16",
        ),
        Row(
            f"passes, {IMAGES:,} images",
            f"{passes:.1f} h of GPU",
            f"{shared / 1e12:,.1f} x {IMAGES:,} / {rate / 1e12:.2f} / 3,600",
            passes,
            ON_T4,
        ),
        Row(
            "decoding of the pictures",
            f"{60 * decoding:.1f} min of CPU",
            f"{IMAGES:,} x {ms(DECODING):.2f} ms, once: decoded pictures stay in memory",
            decoding,
            ON_CPU,
        ),
        Row(
            "resizing of the pictures",
            f"{resizing:.1f} h of CPU",
            f"{len(known)} backbones x {IMAGES:,}, {ms(RESIZING.format(side=SIDES[0])):.2f} ms at "
            f"{SIDES[0]} px to {ms(RESIZING.format(side=SIDES[-1])):.2f} ms at {SIDES[-1]} px",
            resizing,
            ON_CPU,
        ),
        Row(
            "COCO evaluation of all configurations",
            f"{scoring:.1f} h of CPU",
            f"{size:,} x {scored_ms / 1e3:.2g} s, "
            + (
                f"{IMAGES // SCORED_IMAGES} times that of {SCORED_IMAGES:,} images"
                if parts[SCORING].method == "measured"
                else "**given**: an earlier figure, not timed with the other parts"
            ),
            scoring,
            ON_CPU,
        ),
        Row(
            "latency model",
            f"{latency:.1f} h of GPU",
            f"{assumed.engines} engines x ({ms(EXPORTING) / 1e3:.1f} s of export"
            + ("" if parts[EXPORTING].method == "measured" else ", **given**")
            + ", "
            f"{assumed.build_s:.0f} s to build, **assumed**, {short_s:.0f} s of samples at most)",
            latency,
            ON_T4,
        ),
        Row(
            "confirmation",
            f"{confirming:.1f} h of GPU",
            f"{assumed.candidates} files x ({assumed.builds} builds of {assumed.build_s:.0f} s and "
            f"{full_s:.0f} s of samples, AP of the file on {IMAGES:,} images in {file_s:.0f} s at "
            f"{assumed.file_ms:g} ms, **assumed**)",
            confirming,
            ON_T4,
        ),
        Row(
            "**whole search, exhaustive**",
            f"**{whole:.0f} h**",
            f"sum; {PUBLISHED_HOURS / whole:,.0f} times less than published",
            whole,
            ON_T4,
        ),
        Row(
            "decisions of a race",
            f"{deciding:.1f} h of CPU",
            f"{ms(DECIDING) * 1e3:.0f} us for an image of a configuration, {Rules().resamples} "
            f"resamples, as if no configuration left",
            deciding,
            ON_CPU,
        ),
        Row(
            "**whole search, race**",
            f"**{raced:.0f} h**",
            f"{assumed.race_passes:.0%} of passes, resizing and evaluation, **assumed** from 162 "
            f"configurations, and the decisions",
            raced,
            ON_T4,
        ),
        Row(
            "the same configurations, one by one",
            f"{single:,.0f} h",
            "operations one by one at the same rate, resizing, evaluation, and an engine for each",
            single,
            ON_T4,
        ),
    ]
    return [*rows, *_here(parts, known)]


def _here(parts: Mapping[str, Latency], known: Sequence[tuple[float, object]]) -> list[Row]:
    """The row of the passes on this machine; none where a pass was not timed."""
    times = [parts.get(PASSING.format(which=which)) for which in PASSES]
    if None in times:
        return []
    hours = _passes_here(parts, known) * IMAGES * 1e-3 / 3600
    of_pass = ", ".join(f"{one.median_ms / 1e3:,.3g} s" for one in times if one is not None)
    return [
        Row(
            "passes on this machine instead, one thread",
            f"{hours:,.0f} h",
            f"{of_pass} an image through the least, the median and the ninth-decile backbone; "
            f"between them interpolated over operations, beyond them in proportion",
            hours,
            ON_CPU,
        )
    ]


def _passes_here(parts: Mapping[str, Latency], known: Sequence[tuple[float, object]]) -> float:
    """Milliseconds of one image through all backbones, interpolated between the timed, and
    beyond the last in proportion to operations.
    """
    costs = [flops for flops, _ in known]
    at = [costs[place] for place in timed_places(len(costs))]
    times = [parts[PASSING.format(which=which)].median_ms for which in PASSES]
    within = np.interp(costs, at, times)
    beyond = times[-1] * np.array(costs) / at[-1]
    return float(np.where(np.array(costs) > at[-1], beyond, within).sum())


def _resizing_ms(parts: Mapping[str, Latency], known: Sequence[tuple[float, list]]) -> float:
    """Milliseconds of one picture for all backbones, interpolated over pixels."""
    pixels = [side * side for side in SIDES]
    times = [parts[RESIZING.format(side=side)].median_ms for side in SIDES]
    inputs = [group[0].input_hw for _, group in known]
    return float(np.interp([high * wide for high, wide in inputs], pixels, times).sum())


def record_of(row: Row, command: str) -> Record:
    """The row as a Record with a modelled time; ``command``: the one that computed it."""
    name = row.name.strip("*")
    return Record(
        "cost",
        ModelId("rfdetr", "rfdetr paper supernet", variant=name, weights="random"),
        latency=Latency(HOUR_MS * (row.hours or 0.0), method="modelled"),
        campaign=CAMPAIGN,
        started_at=utc_now(),
        command=command,
        deployment=row.where,
    )


def page(
    rows: Sequence[Row],
    records: Sequence[Record],
    assumed: Assumed,
    given: Sequence[str] = (),
) -> str:
    """The text of docs/search_cost.md. ``given``: the arguments ``--given`` of the command."""
    wrapped = "".join(f" \\\n        --given '{text}'" for text in given)
    by_name = {row.name.strip("*"): row.hours or 0.0 for row in rows}
    whole = by_name["whole search, exhaustive"]
    single = by_name["the same configurations, one by one"]
    size = len(PAPER_SPACE)
    machine = next((r.machine for r in records if r.machine is not None), None)
    cpu = "an unknown processor" if machine is None else machine.cpu
    table = "\n".join(f"| {row.name} | {row.figure} | {row.origin} |" for row in rows)
    published_min = 60 * PUBLISHED_HOURS / size
    planned = plan_section(records, by_name, assumed.engines, assumed.candidates)
    linked = "\n([for this machine](#the-plan-for-this-machine))" if planned else ""
    spread = "\n".join(
        f"| {record.model.variant} | {_time(record.latency.median_ms)} | {_interval(record)} | "
        f"{record.latency.num_samples} |"
        for record in records
        if record.latency is not None and _measured(record)
    )
    return f"""# What a search of the paper's space would take on a T4

A projection, not a measurement: no T4 was at hand. The published search took about \
{PUBLISHED_HOURS:,} hours of a T4 for
{size:,} configurations. Each part with a time is a Record of `results/search_cost.jsonl`: times \
of the CPU rest
on measured parts, times of the GPU on the assumptions that are listed below.

    python -m benchmarks.studies.search_parts --out results/search_cost.jsonl
    python -m benchmarks.studies.search_projection --records results/search_cost.jsonl --out \
docs/search_cost.md{wrapped}

`rfdetr-repro search --plan` times the passes of your own supernet on your own machine \
instead{linked}.

| what | figure | from |
|---|---|---|
{table}

The sums count hours of GPU and of CPU alike, as if nothing ran at the same time. Shared passes \
are exact: configurations
that differ only in decoder layers and queries share their backbone, and deeper decoders share the \
layers of the shallower.

## Against the published {PUBLISHED_HOURS:,} hours

| | published | here, one by one | here, shared |
|---|---|---|---|
| hours | about {PUBLISHED_HOURS:,} | {single:,.0f} | {whole:.0f} |
| minutes for each configuration | {published_min:.0f} | {60 * single / size:.1f} | \
{60 * whole / size:.2f} |
| engines built | not stated | {size:,} | {assumed.engines} and \
{assumed.candidates * assumed.builds} |
| accuracy of | not stated | each configuration alone | all configurations of a backbone \
together |
| latency of | each configuration | each configuration | {assumed.engines} engines measured, the \
others modelled; {assumed.candidates} measured again |

- By these parts, sharing passes and modelling latencies make the search \
{single / whole:.0f} times cheaper.
- Between the published figure and the same work one by one a factor of \
{PUBLISHED_HOURS / single:.1f} remains. The paper does not say what
  its hours contain. If accuracies were measured in the same buffered loop as latencies, a wait of \
200 ms before each of
  {IMAGES:,} images would alone add {size * IMAGES * 0.2 / 3600:,.0f} h; whether that was done is \
not known.
- Here, the latency of a configuration that was not confirmed comes from a model; the published \
search measured every
  configuration.

{planned}## What is assumed

| assumption | value | why |
|---|---|---|
| rate of a T4 | {published_share():.0%} of its float32 peak of {T4_FP32 / 1e12:g} TFLOP/s | \
Table 2's RF-DETR rows reach at least this part of the FP16 peak |
| building a TensorRT engine | {assumed.build_s:.0f} s | not measured on a T4 |
| latency of a confirmed file | {assumed.file_ms:g} ms | between Nano (2.3 ms) and 2XL (17 ms) \
of Table 2 |
| share of a race | {assumed.race_passes:.0%} | printed by \
`python -m benchmarks.studies.race_time` for 162 configurations; whether it holds for {size:,} is \
not known |
| engines, candidates, builds | {assumed.engines}, {assumed.candidates}, {assumed.builds} | the \
campaign `coco` has {COCO.engines}, {COCO.candidates} and {COCO.buffered.builds} |

## The parts that were measured

The times are medians of the CPU time of one thread on {cpu}, on a machine that other programs \
used
too. The interval is the exact 95 % interval of the median within one session.

| part | median | 95 % interval | repeats |
|---|---|---|---|
{spread}
"""


def _measured(record: Record) -> bool:
    return record.latency is not None and record.latency.method == "measured"


def _time(ms: float) -> str:
    return f"{ms / 1e3:.3g} s" if ms >= 1e3 else f"{ms:.3g} ms"


def _interval(record: Record) -> str:
    latency = record.as_latency().latency
    if latency.ci_low_ms is None or latency.ci_high_ms is None:
        return "too few repeats"
    return f"{_time(latency.ci_low_ms)} to {_time(latency.ci_high_ms)}"


def _given(texts: Sequence[str]) -> dict[str, float]:
    """Name -> milliseconds. Raises :class:`InputError` for another text."""
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or found[name] <= 0:
            raise InputError(f"{text!r} is not NAME=MS", "--given", f"write '{SCORING}=250'")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Writes or prints the projection, and stores its rows beside the timed parts."""
    parser = argparse.ArgumentParser("benchmarks.studies.search_projection", description=__doc__)
    add = parser.add_argument
    add("--records", type=Path, required=True, help="Records of search_parts.py")
    add("--build-seconds", type=float, default=300.0, help="of one TensorRT engine on a T4")
    add("--engines", type=int, default=COCO.engines, help="measured for the latency model")
    add("--candidates", type=int, default=CANDIDATES, help="confirmed by the full protocol")
    add("--builds", type=int, default=COCO.buffered.builds, help="builds of each confirmed file")
    add("--file-ms", type=float, default=8.0, help="latency of a confirmed file on a T4")
    add("--race-passes", type=float, default=0.35, help="share of the passes that a race makes")
    add(
        "--given",
        action="append",
        default=[],
        metavar="NAME=MS",
        help="a part that was timed elsewhere, in ms; it stands in for a missing Record",
    )
    add("--out", type=Path, help="file to write the page to")
    args = parser.parse_args(argv)
    assumed = Assumed(
        args.build_seconds,
        args.engines,
        args.candidates,
        args.builds,
        args.file_ms,
        args.race_passes,
    )
    stored = Store(args.records).read()
    records = [one for one in stored if one.campaign in (CAMPAIGN, PLANNED)]
    rows = rows_of(parts_of(records, _given(args.given)), assumed)
    text = page(rows, records, assumed, args.given)
    command = command_line("python -m benchmarks.studies.search_projection", argv)
    # the rows of an earlier projection are replaced
    others = [one for one in stored if one.campaign != CAMPAIGN or _measured(one)]
    kept = [*others, *(record_of(row, command) for row in rows if row.hours is not None)]
    write_atomic(args.records, "".join(one.to_json() + "\n" for one in kept))
    if args.out:
        write_atomic(args.out, text)
    print(text)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
