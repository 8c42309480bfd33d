"""Which Records are worth keeping: the accuracy-latency frontier, the best Record under a budget,
and the campaign's confirmed points.

The direction (lower or higher is better) belongs to the metric. Two latencies are compared only if
they were obtained in the same way (published, modelled, or measured by the same runtime, protocol
mode and machine), two APs only on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import MODES, runtimes_of

from .record import FINE_TUNING, RF100, RIVALS, TUNED, MeasuredRecord, Record


@dataclass(frozen=True)
class Metric:
    """A number of a Record, with its unit and its better direction.

    ``within`` names the backend or the data inside which two values are comparable.
    """

    name: str
    unit: str
    lower_is_better: bool
    value: Callable[[Record], float | None]
    within: Callable[[Record], str]

    def cost(self, record: Record) -> float:
        """The value with its sign set so that smaller is better, for Records that have the
        value.
        """
        value = self.value(record)
        if value is None:
            raise InputError(f"Record {record.id} of {record.model.name} has no {self.name}")
        return value if self.lower_is_better else -value


def backend(record: Record) -> str:
    """How the latency was obtained, like ``modelled onnxruntime fp32 buffered on CPU``, ``published
    tensorrt-fp16`` or ``onnxruntime-cpu buffered on CPU``. The mode includes its wait where the
    wait is not the paper's 200 ms.
    """
    if record.latency is None:
        return "no latency"
    if record.published is not None:
        return f"published {record.published.latency_backend}".strip()
    machine = (record.machine.gpu or record.machine.cpu) if record.machine else "unknown machine"
    if record.latency.method == "modelled":
        return f"modelled {record.deployment or 'unknown runtime'} on {machine}"
    runtime = record.artifact.runtime if record.artifact else "unknown runtime"
    mode = record.protocol.short if record.protocol else "unknown mode"
    return f"{runtime}{' CUDA graph' if record.latency.cuda_graph else ''} {mode} on {machine}"


def backend_of_any_batch(record: Record) -> str:
    """:func:`backend` without the batch: images per second of one file grow with the batch, and the
    best batch of a model is what a throughput is asked for.
    """
    protocol = record.protocol
    if protocol is None or protocol.batch == 1:
        return backend(record)
    return backend(replace(record, protocol=replace(protocol, batch=1)))


def modelled_for(search: Record, timed: Record) -> bool:
    """Whether the modelled latency of ``search`` is for what ``timed`` was measured on: data set,
    supernet, runtime, machine and mode.
    """
    artifact = timed.artifact
    machine = timed.machine
    name = search.data and search.data.name
    if (
        artifact is None
        or name != (timed.data and timed.data.name)
        or latency_mode(search) != latency_mode(timed)
    ):
        return False
    if search.model.checkpoint_sha256 != timed.model.checkpoint_sha256 or timed.model.arch is None:
        return False
    if search.machine is not None and machine is not None:
        if (search.machine.cpu, search.machine.gpu) != (machine.cpu, machine.gpu):
            return False
    if search.deployment is None:
        return True
    runtime, precision = search.deployment.split()[:2]
    graph = timed.latency is not None and bool(timed.latency.cuda_graph)
    named = artifact.runtime in runtimes_of(runtime)
    return (
        named and artifact.precision == precision and ("CUDA graph" in search.deployment) == graph
    )


def latency_mode(record: Record) -> str | None:
    """The mode of the measured or modelled latency, like "buffered", "sustained" or "buffered 100
    ms"; None if unknown.

    No axis and no decision mixes two modes. Latency models of Records without a mode in their
    deployment were fitted to sustained latencies.
    """
    if record.latency is None or record.published is not None:
        return None
    if record.latency.method != "modelled":
        return record.protocol.short if record.protocol else None
    words = (record.deployment or "").split()
    start = next((place for place, word in enumerate(words) if word in MODES), None)
    return "sustained" if start is None else " ".join(words[start:])


def images(record: Record) -> str:
    """The images an AP refers to, e.g. ``embedded val``."""
    return f"{record.data.name} {record.data.split}" if record.data else "unknown data"


def annotation_digest(record: Record) -> str:
    """The first eight digits of the digest of the annotations; "" if it is not known."""
    return ((record.data.sha256 if record.data else None) or "")[:8]


def _field(part: str, name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        holder = getattr(record, part)
        return None if holder is None else getattr(holder, name)

    return value


def _anything(record: Record) -> str:
    return ""


METRICS: dict[str, Metric] = {
    "latency": Metric("latency", "ms", True, _field("latency", "median_ms"), backend),
    "throughput": Metric(
        "throughput", "images/s", False, _field("latency", "images_per_s"), backend_of_any_batch
    ),
    "params": Metric("parameters", "", True, _field("cost", "params"), _anything),
    "flops": Metric("FLOPs", "", True, _field("cost", "flops"), _anything),
    "size": Metric("file size", "bytes", True, _field("artifact", "size_bytes"), _anything),
    "ap": Metric("AP", "", False, _field("accuracy", "ap"), images),
    "ap50": Metric("AP50", "", False, _field("accuracy", "ap50"), images),
    "mask_ap": Metric("mask AP", "", False, _field("mask_accuracy", "ap"), images),
    "mask_ap50": Metric("mask AP50", "", False, _field("mask_accuracy", "ap50"), images),
}


def metric(name: str) -> Metric:
    """The metric called ``name``. Raises :class:`InputError`, which lists the known metrics, for an
    unknown name.
    """
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}", hint=f"choose one of {', '.join(METRICS)}")
    return METRICS[name]


def comparable_groups(
    records: Iterable[Record], x: str = "latency", y: str = "ap"
) -> dict[tuple[str, str], list[Record]]:
    """Records that have both metrics, grouped by (backend of x, images of y). Only Records of the
    same group may be compared. Two data sets of one name, which differ in their annotations, are
    two groups.
    """
    along = metric(x)
    up = metric(y)
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        if along.value(record) is not None and up.value(record) is not None:
            of_key = groups.setdefault((along.within(record), up.within(record)), {})
            of_key.setdefault(annotation_digest(record), []).append(record)
    found: dict[tuple[str, str], list[Record]] = {}
    for (how, what), parts in groups.items():
        for digest, part in parts.items():
            several = len(parts) > 1 and what
            found[how, f"{what}, annotations {digest or 'unknown'}" if several else what] = part
    return found


def frontier(records: Iterable[Record], x: str = "latency", y: str = "ap") -> list[Record]:
    """Records that no other Record beats in ``x`` without losing in ``y``, best ``x`` first.

    Records without either metric are left out. Of several Records with the same ``x`` and ``y`` the
    first stays. Raises :class:`InputError` if the Records are not comparable; :func:`frontiers`
    groups such Records instead.
    """
    groups = comparable_groups(records, x, y)
    if len(groups) > 1:
        mixed = "; ".join(" / ".join(filter(None, key)) for key in groups)
        raise InputError(
            f"one front cannot mix {mixed}", hint="select one backend and one data split"
        )
    return _front(next(iter(groups.values()), []), metric(x), metric(y))


def frontiers(
    records: Iterable[Record], x: str = "latency", y: str = "ap"
) -> dict[tuple[str, str], list[Record]]:
    """One frontier per group of :func:`comparable_groups`."""
    return {
        key: _front(group, metric(x), metric(y))
        for key, group in comparable_groups(records, x, y).items()
    }


def _front(records: Sequence[Record], along: Metric, up: Metric) -> list[Record]:
    front: list[Record] = []
    # stable: of equal Records the first comes first
    for record in sorted(records, key=lambda item: (along.cost(item), up.cost(item))):
        if not front or up.cost(record) < up.cost(front[-1]):
            front.append(record)
    return front


@dataclass(frozen=True)
class Confirmed:
    """One exported file with everything that was measured from it: the full protocol on val and
    test, buffered and sustained.
    """

    arch: Arch | None
    sha256: str
    val: Record | None = None  # buffered latency and AP on val
    test: Record | None = None  # the same file on test
    sustained: Record | None = None  # on val, or on test alone
    sustained_test: Record | None = None

    @property
    def any(self) -> Record:
        """A Record of the file, whichever exists."""
        found = (self.val, self.test, self.sustained, self.sustained_test)
        return next(record for record in found if record is not None)

    @property
    def buffered(self) -> Record | None:
        """The Record that holds the buffered latency."""
        return next(
            (
                record
                for record in (self.val, self.test)
                if record is not None and record.latency is not None
            ),
            None,
        )

    def on(self, split: str) -> Record | None:
        """The Record that holds the AP on ``split`` ("val" or "test"). A file has one AP per split,
        in whatever mode its latency was measured.
        """
        found = [self.val, self.sustained] if split == "val" else [self.test, self.sustained_test]
        here = [record for record in found if record is not None and _split(record) == split]
        scored = [
            record
            for record in here
            if record.accuracy is not None or record.mask_accuracy is not None
        ]
        return next(iter(scored or here), None)

    @property
    def predicted(self) -> Record | None:
        """The Record whose latency the latency model had predicted, in the mode that the search
        decided by; None if nothing was predicted.
        """
        found = (self.val, self.test, self.sustained, self.sustained_test)
        return next(
            (
                one
                for one in found
                if one is not None and one.latency and one.latency.predicted_ms is not None
            ),
            None,
        )


def confirmed_points(records: Iterable[Record]) -> list[Confirmed]:
    """Protocol Records grouped by the file that they were measured from (SHA-256), runtime and
    machine, fastest first.

    The same file with and without a CUDA graph gives two points, and so does a file that was
    computed in two precisions, with two numbers of threads of a CPU, or measured on two data sets,
    even if they have one name. Records of fine-tuned models, which are
    not part of what was searched, are left out, and so are comparisons with rivals and over many
    data sets, which have tables of their own, and protocols other than the usual buffered and
    sustained protocols.
    """
    groups: dict[tuple[object, ...], list[dict[str, Record]]] = {}
    for record in records:
        if record.source != "protocol":
            continue
        split = _split(record)
        other = record.campaign in (FINE_TUNING, RIVALS, RF100) or record.model.variant == TUNED
        usual = (record.protocol is None or record.protocol.usual) and split in ("val", "test")
        if record.artifact is not None and usual and not other:
            graph = record.latency is not None and bool(record.latency.cuda_graph)
            machine = record.machine and (record.machine.cpu, record.machine.gpu)
            name = record.data.name if record.data else None
            engine = (record.artifact.runtime, record.artifact.precision, graph, threads_of(record))
            found = groups.setdefault((record.artifact.sha256, engine, machine, name), [])
            sustained = record.protocol is not None and record.protocol.mode == "sustained"
            place = {"val": "sustained", "test": "sustained_test"}[split] if sustained else split
            _of_same_images(found, record)[place] = record
    points = []
    for (sha256, *_), found in groups.items():
        for parts in found:
            if "sustained_test" in parts:
                parts.setdefault("sustained", parts["sustained_test"])
            points.append(Confirmed(next(iter(parts.values())).model.arch, str(sha256), **parts))
    return sorted(points, key=_fastest_first)


def threads_of(record: Record) -> int | None:
    """Threads of the CPU runtime; None if unknown, and on a GPU, whose latency hardly depends on
    them.
    """
    on_gpu = record.machine is not None and record.machine.gpu is not None
    return None if on_gpu or record.protocol is None else record.protocol.threads


def _of_same_images(found: list[dict[str, Record]], record: Record) -> dict[str, Record]:
    """The part of ``found`` whose Records of this split have the same annotations; a new part where
    there is none.
    """
    for parts in found:
        digests = {
            annotation_digest(one) for one in parts.values() if _split(one) == _split(record)
        }
        if digests <= {annotation_digest(record)}:
            return parts
    found.append({})
    return found[-1]


def _split(record: Record) -> str:
    return record.data.split if record.data else "val"


def _fastest_first(point: Confirmed) -> tuple[float, float]:
    """By the buffered latency; files without a buffered latency come last, by the sustained
    latency.
    """
    ms = [
        one.latency.median_ms if one and one.latency else float("inf")
        for one in (point.buffered, point.sustained)
    ]
    return ms[0], ms[1]


def decision_mode(points: Sequence[Confirmed]) -> str:
    """The mode that the points are compared by: the mode that was predicted, else buffered where
    any point has a buffered latency.
    """
    for point in points:
        if point.predicted is not None:
            return point.predicted.protocol.mode if point.predicted.protocol else "buffered"
    return "buffered" if any(point.buffered for point in points) else "sustained"


def measured_front(points: Sequence[Confirmed]) -> set[str]:
    """SHA-256s of the points on the frontier of what was measured on val, in the mode of
    :func:`decision_mode`. Raises :class:`InputError` if the points are not comparable.
    """
    mode = decision_mode(points)
    found = [point.val if mode == "buffered" else point.sustained for point in points]
    front = frontier(record for record in found if record is not None and _split(record) == "val")
    return {record.artifact.sha256 for record in front if record.artifact}


def pickable(record: Record) -> MeasuredRecord | None:
    """The view of a file that was measured by the usual protocol on val, which a budget may choose;
    None for any other Record.
    """
    measured = MeasuredRecord.of(record)
    if (
        measured is None
        or record.source != "protocol"
        or not measured.protocol.usual
        or record.data is None
        or record.data.split != "val"
    ):
        return None
    return measured
