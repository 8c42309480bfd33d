"""The best model of a run under a latency budget, as a file with a plain name.

A budget is a ceiling: only files that the full protocol has measured are considered, and the
measured latency decides. A target (:mod:`.targets`) is a neighbourhood instead, as in the paper's
RF100-VL models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rfdetr_repro.export.artifact import Artifact, load_artifact, write_artifact
from rfdetr_repro.export.deployed import artifacts_in
from rfdetr_repro.records.pareto import comparable_groups, metric, pickable
from rfdetr_repro.records.record import MeasuredRecord, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.metrics import milliseconds, percent
from rfdetr_repro.spec.protocol import runtimes_of

from .budget import Budget

LABELS = "labels.txt"


@dataclass(frozen=True)
class Pick:
    """The chosen model.

    ``proved``: whether the whole 95 % interval of the latency lies within the budget; None where
    the statistic has no interval.
    """

    budget: Budget
    measured: MeasuredRecord
    artifact: Artifact
    proved: bool | None

    def describe(self) -> str:
        """One sentence: the file, its accuracy and latency, and how sure the latency is."""
        latency = self.measured.latency
        ms = self.budget.latency_of(self.measured)
        scored = metric(self.budget.metric)
        certainty = "no interval is known for this value"
        if self.proved is not None:
            inside = "within" if self.proved else "not wholly within"
            certainty = (
                f"95 % interval {milliseconds(latency.ci_low_ms)} to "
                f"{milliseconds(latency.ci_high_ms)} ms, {inside} the budget"
            )
        return (
            f"best under {self.budget.ms:g} ms: {self.artifact.path} "
            f"({name_of(self.measured.record)}, {scored.name} "
            f"{percent(scored.value(self.measured.record))} on val, {self.budget.quantile} "
            f"{milliseconds(ms)} ms {self.budget.mode} on {self.measured.artifact.runtime} in "
            f"{self.measured.artifact.precision}; {certainty})"
        )


def pick(
    run: str | Path, budget: Budget, backend: str | None = None, precision: str | None = None
) -> Pick:
    """Finds the most accurate measured file of ``run`` within ``budget`` and writes it as
    ``RUN/best-5ms.onnx`` (or with the ending of its format) with its manifest, and the class names
    in order as ``RUN/labels.txt``.

    ``backend`` and ``precision``: consider only what was measured on this runtime of
    ``runtime/backends.py`` and in this precision. Raises :class:`InputError` for a folder without
    measured files or with files measured by several backends, machines or data sets, and
    :class:`StatedFailure`, which names the nearest model, where every file is slower than the
    budget.
    """
    run = Path(run)
    store = run / "records.jsonl"
    if not store.is_file():
        raise InputError("the folder holds no Records", run, "give the folder of a search")
    measured = considered(Store(store).read(), budget)
    if not measured:
        raise InputError(
            f"no file of the run has a {budget.mode} latency ({budget.quantile}) and "
            f"{metric(budget.metric).name} on val",
            store,
            "run the search to its end, or choose another mode, quantile or metric",
        )
    measured = measured_on(measured, backend, precision, store)
    kinds = comparable_groups([one.record for one in measured], "latency", budget.metric)
    if len(kinds) > 1:
        raise InputError(
            f"the run holds measurements that cannot be compared: "
            f"{'; '.join(sorted(' on '.join(kind) for kind in kinds))}",
            store,
            "choose one backend, or give a run of one backend, machine and data set",
        )
    chosen = best_within(measured, budget)
    artifact = _copied(file_of(run, chosen), run / budget.name)
    write_atomic(run / LABELS, "".join(f"{name}\n" for name in artifact.manifest.class_names))
    return Pick(budget, chosen, artifact, _proved(chosen, budget))


def considered(records: Sequence[Record], budget: Budget) -> list[MeasuredRecord]:
    """The measured files on val that have the budget's statistic and metric."""
    value = metric(budget.metric).value
    found = []
    for record in records:
        measured = pickable(record)
        if (
            measured is not None
            and measured.protocol.mode == budget.mode
            and value(record) is not None
            and budget.latency_of(measured) is not None
        ):
            found.append(measured)
    return found


def measured_on(
    measured: Sequence[MeasuredRecord],
    backend: str | None,
    precision: str | None = None,
    where: object = "",
) -> list[MeasuredRecord]:
    """Those measured on ``backend`` in ``precision``; None: any. Raises :class:`InputError`, which
    names ``where`` and what there is, if there are none.
    """
    runtimes = None if backend is None else runtimes_of(backend)
    kept = [
        one
        for one in measured
        if (runtimes is None or one.artifact.runtime in runtimes)
        and precision in (None, one.artifact.precision)
    ]
    if measured and not kept:
        asked = " in ".join(filter(None, (backend or "any backend", precision)))
        known = {f"{one.artifact.runtime} in {one.artifact.precision}" for one in measured}
        raise InputError(
            f"no file was measured on {asked}", where, f"measured are {', '.join(sorted(known))}"
        )
    return kept


def best_within(measured: Sequence[MeasuredRecord], budget: Budget) -> MeasuredRecord:
    """The most accurate of ``measured`` within the budget; of equally accurate files the faster.

    Raises :class:`StatedFailure` where none is within the budget, which names the fastest file, and
    where there is none at all.
    """
    if not measured:
        raise StatedFailure(f"there is no measured file to compare with {budget.ms:g} ms")
    value = metric(budget.metric).value

    def key(one: MeasuredRecord) -> tuple[float, float]:
        return value(one.record) or 0.0, -(budget.latency_of(one) or 0.0)

    within = [one for one in measured if (budget.latency_of(one) or 0.0) <= budget.ms]
    if within:
        return max(within, key=key)
    nearest = min(measured, key=lambda one: budget.latency_of(one) or 0.0)
    raise StatedFailure(
        f"no measured file is within {budget.ms:g} ms; the nearest is "
        f"{name_of(nearest.record)} with {budget.quantile} "
        f"{budget.latency_of(nearest):.3g} ms {budget.mode}"
    )


def _proved(measured: MeasuredRecord, budget: Budget) -> bool | None:
    low, high = measured.latency.ci_low_ms, measured.latency.ci_high_ms
    if budget.quantile != "median" or low is None or high is None:
        return None
    return high <= budget.ms


def name_of(record: Record) -> str:
    """The architecture's key, or the model's name, with the variant."""
    tail = f" {record.model.variant}" if record.model.variant else ""
    return (record.model.arch.key if record.model.arch else record.model.name) + tail


def file_of(run: Path, measured: MeasuredRecord) -> Path:
    """The file in the run whose manifest states the Record's SHA-256. Raises :class:`InputError` if
    it is not there.
    """
    for path, sha256 in artifacts_in(run).items():
        # not a copy that a budget chose before, and not the same weights in another precision
        if (
            sha256 == measured.artifact.sha256
            and "artifacts" in path.relative_to(run).parts
            and load_artifact(path).manifest.precision == measured.artifact.precision
        ):
            return path
    raise InputError(
        f"the file with SHA-256 {measured.artifact.sha256[:12]} is not in the run",
        run / "artifacts",
        "run the search again; it exports the file anew",
    )


def _copied(source: Path, stem: Path) -> Artifact:
    found = load_artifact(source)
    target = stem.with_name(stem.name + source.suffix)
    return write_artifact(target, source.read_bytes(), found.manifest)
