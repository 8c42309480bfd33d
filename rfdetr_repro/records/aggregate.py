r"""The mean over the data sets of a benchmark, as the paper prints it for RF100-VL (Tables 4, 14
and 17).

    python -m rfdetr_repro.mean --name rf100-vl --out results/rf100-vl.jsonl RUNS...
    python -m rfdetr_repro.mean --name rf100-vl --size N --target-ms 2.3 \
        --out results/rf100-vl.jsonl RUNS...

Without a target, every model that was measured on all data sets gets a Record of its own. With a
target, each data set contributes the architecture that was found for it (paper section 4): of the
files measured within the tolerance of the target, the best file on ``--select``; the mean is over
the results of these files on ``--split``. A mean over fewer data sets than the benchmark has is not
comparable with the benchmark and is refused. Stores are read, never changed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    folder_name,
    input_path,
    label,
    number,
    output_file,
)
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.metrics import COCO_METRICS, milliseconds, percent
from rfdetr_repro.spec.protocol import DECISION, MODES, REAL, Protocol

from .ap_intervals import mean_interval, with_range
from .pareto import metric
from .record import MEAN, Accuracy, ArtifactId, Cost, DataId, Latency, ModelId, Record
from .statistics import verdict_of
from .store import Store, read_stores

COUNTS = {"rf100-vl": 100, "rf20-vl": 20}  # data sets that a benchmark of this name has
_MOST_LISTED = 5  # lines about incomplete models, at most
How = tuple[object, ...]


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.mean``."""
    arguments = ArgumentParser(
        "rfdetr_repro.mean",
        description=("Averages over the data sets of a benchmark, as the paper does for RF100-VL."),
        examples=(
            "mean --name rf100-vl --out results/rf100-vl.jsonl runs/rf100-vl",
            "mean --name rf100-vl --size N --target-ms 2.3 --out results/rf100-vl.jsonl "
            "runs/rf100-vl",
        ),
    )
    add = arguments.add_argument
    add("stores", nargs="+", type=input_path, help="run folders, .jsonl files or folders of them")
    add(
        "--name",
        required=True,
        type=folder_name,
        help=f"name of the benchmark; {', '.join(COUNTS)} must be complete, any other benchmark "
        f"consists of the data sets in the stores",
    )
    add(
        "--split",
        default="test",
        type=folder_name,
        help="the split whose results are averaged (default: test)",
    )
    add(
        "--mode",
        default=DECISION.mode,
        choices=MODES,
        help="protocol mode of the latencies that are averaged and compared with the target",
    )
    add(
        "--buffer-ms",
        type=number(*REAL["buffer_ms"]),
        default=Protocol.buffer_ms,
        help="wait before each sample in the buffered mode, in ms",
    )
    add(
        "--cuda-graph",
        choices=("on", "off"),
        help="only files that ran with a CUDA graph, or only files that ran without",
    )
    add("--runtime", type=label, help="only files that ran on this runtime, e.g. tensorrt")
    add(
        "--size",
        type=label,
        help="with --target-ms: the size that the mean is printed under, e.g. N",
    )
    add(
        "--variant",
        type=label,
        help="only files of this variant, e.g. nas+fine-tuning; default: nas, or no variant",
    )
    add(
        "--target-ms",
        type=number(0, 1e6, "()"),
        help="average the architecture that each data set found near this latency, in ms",
    )
    add(
        "--tolerance",
        type=number(0, 1, "()"),
        default=0.1,
        help="largest relative deviation of a file's latency from the target",
    )
    add(
        "--select",
        default="val",
        type=folder_name,
        help="split on which the best file near the target is chosen",
    )
    add(
        "--metric",
        default="ap",
        choices=("ap", "ap50", "mask_ap", "mask_ap50"),
        help="metric by which the best file is chosen",
    )
    add("--out", required=True, type=output_file, help="store to append the means to")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.mean``. Raises :class:`InputError` for an
    incomplete benchmark.
    """
    args = parser().parse_args(argv)
    if (args.target_ms is None) != (args.size is None):
        raise InputError(
            "--size and --target-ms belong together",
            hint="give both, or neither for models measured everywhere",
        )
    best = metric(args.metric).value
    args.name = args.name.lower() if args.name.lower() in COUNTS else args.name
    if args.name.startswith("coco"):
        raise InputError(
            f"{args.name} is one data set, not a benchmark of several", hint="choose another --name"
        )
    read = {record.id: record for record in read_stores(args.stores)}
    records = [record for record in read.values() if _wanted(record, args)]
    names = _names(records)
    expected = COUNTS.get(args.name, len(names))
    if not names:
        hint = "check --mode, --variant and --runtime"
        raise InputError(
            f"no file was measured that has an AP and a {args.mode} latency",
            ", ".join(map(str, args.stores)),
            hint,
        )
    if not args.name.startswith("embedded") and any(
        record.data and record.data.synthetic for record in records
    ):
        raise InputError(
            "composed images do not make a benchmark of real images",
            args.name,
            "name the mean embedded-...",
        )
    if len(names) == 1:
        raise InputError(
            f"only {next(iter(names))} was measured",
            args.name,
            "give the stores of several data sets",
        )
    if args.target_ms is None:
        averaged = [part for part in records if _split(part) == args.split]
        complete, short = whole_groups(averaged, expected)
        if not complete:
            raise InputError(
                f"no model was measured on {expected} data sets of {args.name}",
                hint="; ".join(short) or f"measure their {args.split} split",
            )
    else:
        near = Target(args.target_ms, args.tolerance, args.select, best)
        complete = [near.picks(records, args.split, expected)]
        short = []
    store = Store(args.out)
    for parts in complete:
        model = replace(parts[0].model, checkpoint_sha256=None)
        if args.target_ms is not None:
            model = replace(
                model, name="RF-DETR", size=args.size, variant=args.variant or "nas", arch=None
            )
        record = store.append(
            mean_of(parts, model, args.name, command_line("python -m rfdetr_repro.mean", argv))
        )
        print(line(record))
    print("\n".join([f"records in {args.out}", *(f"left out: {text}" for text in short)]))


def _wanted(record: Record, args: argparse.Namespace) -> bool:
    """Whether the file has an AP and a latency of the wanted kind; models with random weights have
    no AP.
    """
    artifact = record.artifact
    protocol = record.protocol
    if (
        record.source != "protocol"
        or record.data is None
        or artifact is None
        or protocol is None
        or record.latency is None
    ):
        return False
    variant = (
        record.model.variant == args.variant
        if args.variant not in (None, "nas")
        else record.model.variant in (None, "nas")
    )
    scored = record.accuracy is not None or record.mask_accuracy is not None
    waited = args.mode != "buffered" or protocol.buffer_ms == args.buffer_ms
    graph = args.cuda_graph is None or bool(record.latency.cuda_graph) == (args.cuda_graph == "on")
    searched = args.target_ms is None or (
        record.model.family == "rfdetr" and record.model.size is None
    )
    how = (
        protocol.usual
        and protocol.mode == args.mode
        and waited
        and graph
        and args.runtime in (None, artifact.runtime)
    )
    return scored and variant and searched and how


def _names(records: Iterable[Record]) -> set[str]:
    """Names of the data sets. Raises :class:`InputError` where two data sets share a name."""
    digests: dict[tuple[str, str], str | None] = {}
    for record in records:
        data = _data(record)
        if digests.setdefault((data.name, data.split), data.sha256) != data.sha256:
            hint = (
                "name their folders, or the info of their annotations, differently and measure "
                "again"
            )
            raise InputError(f"two data sets are called {data.name!r}", f"split {data.split}", hint)
    return {name for name, _ in digests}


class Target(NamedTuple):
    """The rule that chooses a data set's file near a target latency."""

    ms: float
    tolerance: float  # largest relative deviation from `ms`
    split: str  # split on which the best file is chosen
    value: Callable[[Record], float | None]

    def picks(self, records: Iterable[Record], split: str, expected: int) -> list[Record]:
        """One Record on ``split`` for each data set.

        Raises :class:`InputError` for a data set without a file near the target, for files that
        were not measured alike, and where the number of data sets is not ``expected``.
        """
        by_set: dict[str, list[Record]] = {}
        for record in records:
            by_set.setdefault(_set(record), []).append(record)
        if len(by_set) != expected:
            raise InputError(
                f"{len(by_set)} data sets were measured, the benchmark has {expected}",
                hint="give all their stores",
            )
        if len(hows := {_how(record) for own in by_set.values() for record in own}) > 1:
            differing = [
                sorted(set(map(str, values)))
                for values in zip(*hows, strict=True)
                if len(set(values)) > 1
            ]
            message = "; ".join(" and ".join(values[:2]) for values in differing)
            hint = "choose with --runtime, --cuda-graph or --buffer-ms, or give other stores"
            raise InputError(f"the files were not measured alike: {message}", hint=hint)
        return [self._pick(name, own, split) for name, own in sorted(by_set.items())]

    def _pick(self, name: str, records: Sequence[Record], split: str) -> Record:
        def miss(record: Record) -> float:
            return abs(record.as_latency().ms - self.ms) / self.ms

        chosen_on = [
            record
            for record in records
            if _split(record) == self.split and self.value(record) is not None
        ]
        if not chosen_on:
            raise InputError(
                f"{name} has no measured file on its {self.split} split",
                hint="measure one, or choose --select",
            )
        near = [record for record in chosen_on if miss(record) <= self.tolerance * (1 + 1e-9)]
        if not near:
            closest = min(chosen_on, key=miss)
            what = f"{name} has no file within {self.tolerance:.0%} of {self.ms:g} ms"
            nearest = closest.latency.median_ms  # type: ignore[union-attr]
            raise InputError(what, hint=f"the nearest takes {nearest:.3g} ms")
        best = max(near, key=lambda record: (self.value(record), record.id))
        for record in records:
            if _split(record) == split and _file(record) == _file(best):
                return record
        what = f"file {_file(best)[0][:12]} of {name} was not measured on its {split} split"
        raise InputError(
            what, hint="python -m rfdetr_repro.bench --onnx FILE --data DIR --split val,test"
        )


def whole_groups(records: Iterable[Record], expected: int) -> tuple[list[list[Record]], list[str]]:
    """Two lists: the Records of every model that was measured alike on all ``expected`` data sets,
    and the reasons why other models were left out, the most complete model first.
    """
    groups: dict[How, list[Record]] = {}
    for record in records:
        model = record.model
        named = (model.family, model.name, model.task, model.size, model.variant)
        identity = (*named, model.arch, model.backbone)
        groups.setdefault((*identity, *_how(record)), []).append(record)
    complete = []
    short = []
    for own in groups.values():
        counts = Counter(map(_set, own))
        shown = " ".join(filter(None, (own[0].model.name, own[0].model.size, str(_how(own[0])[0]))))
        if twice := [name for name, count in counts.items() if count > 1]:
            short.append((len(counts), f"{shown}: several files on {twice[0]}"))
        elif len(counts) != expected:
            short.append((len(counts), f"{shown}: {len(counts)} of {expected} data sets"))
        else:
            complete.append(sorted(own, key=_set))
    ranked = [text for _, text in sorted(short, key=lambda item: -item[0])]
    return complete, ranked[:_MOST_LISTED] + [f"and {len(ranked) - _MOST_LISTED} more models"] * (
        len(ranked) > _MOST_LISTED
    )


def mean_of(
    parts: Sequence[Record], model: ModelId, name: str, command: str | None = None
) -> Record:
    """The Record of the mean of ``parts``. ``artifact`` and ``data`` hash those of the parts, in
    the order of the data sets' names.

    A metric that some data set lacks (no object of that size) is absent, because a mean over the
    other data sets is not the benchmark's.
    """
    first = parts[0]
    artifacts = [part.as_measured().artifact for part in parts]
    digest = _digest(part.sha256 for part in artifacts)
    onnx = _digest(part.onnx_sha256 for part in artifacts)
    size = round(fmean(part.size_bytes for part in artifacts))
    data = [_data(part) for part in parts]
    images = [part.num_images for part in data if part.num_images is not None]
    return Record(
        MEAN,
        model,
        data=DataId(
            name,
            f"{data[0].split}, mean over {len(parts)} data sets",
            _digest(f"{part.name} {part.sha256}" for part in data),
            sum(images) if len(images) == len(data) else None,
        ),
        artifact=ArtifactId(
            digest, onnx, artifacts[0].runtime, artifacts[0].precision, size, _options(first)
        ),
        cost=_mean_cost([part.cost for part in parts]),
        accuracy=_mean_accuracy([part.accuracy for part in parts], digest),
        mask_accuracy=_mean_accuracy([part.mask_accuracy for part in parts], digest),
        latency=_mean_latency([part.as_latency().latency for part in parts], digest),
        protocol=first.protocol,
        machine=first.machine,
        parts=tuple(part.id for part in parts),
        command=command,
        started_at=utc_now(),
    )


def _mean_accuracy(found: Sequence[Accuracy | None], digest: str) -> Accuracy | None:
    known = [accuracy for accuracy in found if accuracy is not None]
    if len(known) < len(found):
        return None
    values = {name: [getattr(accuracy, name) for accuracy in known] for name in COCO_METRICS}
    means = {name: None if None in column else fmean(column) for name, column in values.items()}
    rule = known[0].rule if len({accuracy.rule for accuracy in known}) == 1 else None
    low, high = mean_interval(known) or (None, None)
    counts = [accuracy.detections for accuracy in known if accuracy.detections is not None]
    kept = {"rule": rule, "artifact_sha256": digest, "ap_low": low, "ap_high": high}
    kept["detections"] = sum(counts) if len(counts) == len(known) else None
    return Accuracy(**means, max_dets=known[0].max_dets, **kept)  # type: ignore[arg-type]


def _mean_latency(found: Sequence[Latency], digest: str) -> Latency:
    return Latency(
        fmean(latency.median_ms for latency in found),
        num_samples=sum(latency.num_samples or 0 for latency in found),
        cuda_graph=found[0].cuda_graph,
        throttled=verdict_of([latency.throttled for latency in found]),
        artifact_sha256=digest,
    )


def _mean_cost(found: Sequence[Cost | None]) -> Cost | None:
    params = [cost.params for cost in found if cost is not None and cost.params is not None]
    flops = [cost.flops for cost in found if cost is not None and cost.flops is not None]
    counters = {cost.counter for cost in found if cost is not None}
    if len(params) < len(found):
        return None
    return Cost(
        round(fmean(params)),
        fmean(flops) if len(flops) == len(found) and len(counters) == 1 else None,
    )


def line(record: Record) -> str:
    """The line that the command prints for a mean: AP of boxes and of masks in percent, with the 95
    % interval where all parts have an interval.
    """
    model = record.model
    data = _data(record)
    measured = record.as_measured()
    title = " ".join(filter(None, (model.name, model.size, model.variant)))
    scores = []
    for kind, accuracy in (("box", record.accuracy), ("mask", record.mask_accuracy)):
        if accuracy is not None:
            ap50 = percent(accuracy.ap50, absent="-")
            scores.append(f"{kind} AP {with_range(accuracy)}, {kind} AP50 {ap50}")
    ms = milliseconds(measured.latency.median_ms)
    how = f"{ms} ms on {measured.artifact.runtime} {measured.artifact.precision}"
    return f"{title}: {', '.join(scores) or 'no AP'}, {how}; {data.name} {data.split}"


def _how(record: Record) -> How:
    """What must be the same for two Records to be averaged."""
    measured = record.as_measured()
    artifact = measured.artifact
    machine = record.machine
    most = {
        accuracy.max_dets
        for accuracy in (record.accuracy, record.mask_accuracy)
        if accuracy is not None
    }
    device = machine and (machine.gpu or machine.cpu)
    return (
        artifact.runtime,
        artifact.precision,
        artifact.options,
        record.model.task,
        device,
        measured.latency.cuda_graph,
        tuple(sorted(most)),
        json.dumps(measured.protocol.settings(), sort_keys=True),
    )


def _options(record: Record) -> str:
    """What distinguishes means of the same model and is in no other part of the request."""
    measured = record.as_measured()
    replayed = measured.latency.cuda_graph
    graph = "" if replayed is None else f"mean_cuda_graph={replayed}"
    most = next(
        accuracy.max_dets
        for accuracy in (record.accuracy, record.mask_accuracy)
        if accuracy is not None
    )
    return " ".join(filter(None, (measured.artifact.options, graph, f"max_dets={most}")))


def _file(record: Record) -> tuple[str, str]:
    artifact = record.as_measured().artifact
    return artifact.sha256, artifact.runtime


def _data(record: Record) -> DataId:
    if record.data is None:
        raise InputError(f"Record {record.id} of {record.model.name} names no data set")
    return record.data


def _set(record: Record) -> str:
    return record.data.name if record.data else ""


def _split(record: Record) -> str:
    return record.data.split if record.data else ""


def _digest(parts: Iterable[str]) -> str:
    return sha256_bytes("\n".join(parts).encode())
