"""What ``rfdetr-repro search --plan`` says of the paper's space on this machine: kept as Records
beside the projection for a T4.

    python -m benchmarks.studies.search_plan --records results/search_cost.jsonl

The same estimate as the command's (:mod:`rfdetr_repro.search.plan`), for weights of the paper's
size, which are random because no time depends on them, the 5,000 images of COCO's val, and the
settings of the campaign ``coco``. One thread; on a CPU the times are CPU times, so that other
programs of the machine disturb them little. An earlier plan in the file is replaced. The page is
written by :mod:`benchmarks.studies.search_projection`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch

from benchmarks.studies.search_parts import IMAGES
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.evaluation.predict_split import BATCH
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.engines import Fit
from rfdetr_repro.search.plan import Job, Plan, plan
from rfdetr_repro.search.race import Rules
from rfdetr_repro.spec.arguments import output_file
from rfdetr_repro.spec.campaign import COCO
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET

PLANNED = "search-plan"
PASSES = "passes of all backbones"
DECISIONS = "decisions of a race, if no configuration is dropped"
LATENCY = "latency model, at most"
CONFIRMATION = "confirmation, at most, AP not counted"
WHOLE = "whole search, at most"


def records_of(made: Plan, command: str, started_at: str) -> list[Record]:
    """The times of a plan: seconds of an image through each timed backbone, and of each part."""
    times = {f"an image through the backbone of {key}": s for key, s in made.timed.items()}
    times |= {
        PASSES: made.passes_s,
        DECISIONS: made.decisions_s,
        LATENCY: made.latency_s,
        CONFIRMATION: made.candidates_s,
        WHOLE: made.total_s,
    }
    return [
        Record(
            "cost",
            ModelId("rfdetr", "rfdetr paper supernet", variant=name, weights="random"),
            latency=Latency(1e3 * seconds, method="modelled"),
            machine=this_machine(),
            campaign=PLANNED,
            started_at=started_at,
            command=command,
            deployment=f"{made.device}, one thread, planned",
            env=environment(),
        )
        for name, seconds in times.items()
    ]


def plan_section(
    records: Sequence[Record], projected: Mapping[str, float], engines: int, candidates: int
) -> str:
    """The plan for this machine beside the projection; empty where there is no plan.
    ``projected``: hours by name of the row, for ``engines`` and ``candidates``.
    """
    plans = {
        str(one.model.variant): one
        for one in records
        if one.campaign == PLANNED and one.latency is not None
    }
    if not plans:
        return ""
    hours = {name: one.latency.median_ms / 3.6e6 for name, one in plans.items() if one.latency}
    pairs = {
        PASSES: "passes, 5,000 images",
        DECISIONS: "decisions of a race",
        LATENCY: "latency model",
        CONFIRMATION: "confirmation",
        WHOLE: "whole search, exhaustive",
    }
    rows = "\n".join(
        f"| {name} | {hours[name]:,.1f} h | {projected[other]:,.1f} h |"
        for name, other in pairs.items()
    )
    timed = "; ".join(
        f"{name.removeprefix('an image through the backbone of ')} "
        f"{one.latency.median_ms / 1e3:.3g} s"
        for name, one in plans.items()
        if name not in pairs and one.latency
    )
    machine = plans[WHOLE].machine
    cpu = "an unknown processor" if machine is None else machine.cpu
    return f"""## The plan for this machine

    python -m benchmarks.studies.search_plan --records results/search_cost.jsonl

The plan times three backbones and an export on one thread of {cpu}, and \
interpolates
between the three backbones by their operations. CPU time of an image, with all decoders that \
share the backbone:
{timed}.
Images that take less than a second each go through a backbone in batches of {BATCH}. The times of \
the [measured
parts](#the-parts-that-were-measured) are of single images and of another session.

| what | planned, this machine | projected, a T4 |
|---|---|---|
{rows}

The plan leaves out decoding and resizing of pictures and the evaluation of the detections. It \
counts as many engines
as the campaign allows at most ({COCO.most_engines}) and {COCO.candidates} candidates, the \
projection {engines} engines and {candidates} candidates; engines
of ONNX Runtime need no building. Times were taken in one session, so they have no interval.

"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the plan and stores its times."""
    parser = argparse.ArgumentParser("benchmarks.studies.search_plan", description=__doc__)
    parser.add_argument("--records", type=output_file, required=True, help="store of the Records")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = Store(args.records)
    others = [one for one in store.read() if one.campaign != PLANNED]
    job = Job(
        PAPER_SPACE,
        IMAGES,
        Fit(COCO.engines, COCO.most_engines),
        COCO.candidates,
        COCO.protocols,
        Rules(),
    )
    started_at = utc_now()
    made = plan(Detector(PAPER_SUPERNET.model, PAPER_SUPERNET.arch).eval(), job)
    print("\n".join(made.lines()))
    command = command_line("python -m benchmarks.studies.search_plan", argv)
    kept = (*others, *records_of(made, command, started_at))
    write_atomic(args.records, "".join(one.to_json() + "\n" for one in kept))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
