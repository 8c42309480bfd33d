"""The search: every configuration of a space -> AP and latency Records -> frontier candidates -> the full protocol.

Accuracy comes from the shared pass (``shared.py``), latency from the additive model fitted on a few measured engines
(``latency_model.py``), and only candidates for the frontier are exported and measured in full, accuracy and latency from the same
file. Every step skips what the store already holds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from ..bench.confirm import Context, example_input
from ..bench.machine import environment, this_machine
from ..bench.protocol import measure_interleaved
from ..coco_eval import CocoEvaluator
from ..config import Arch, Protocol, SearchSpace
from ..data.coco import CocoSplit
from ..export.artifact import Artifact, ArtifactMeta, load_artifact
from ..export.onnx import export_onnx
from ..export.session import OrtSession
from ..model.checkpoint import ModelCard
from ..model.detector import Detector
from ..pareto import frontier, metric
from ..record import DataId, ModelId, Record
from ..store import Store
from ..validation import single_detections
from .latency_model import LatencyModel, RelativeError, choose_engines
from .shared import by_backbone, shared_detections

Progress = Callable[[Iterable], Iterable]
SHORT = Protocol(mode="sustained", buffer_ms=0.0, warmup=5, min_samples=40, max_samples=120, relative_ci=0.01, timeout_s=10.0)


@dataclass
class Search:
    """One supernet, one validation split, one store; ``folder`` holds the exported files."""

    detector: Detector
    card: ModelCard
    checkpoint_sha256: str
    space: SearchSpace
    split: CocoSplit
    store: Store
    folder: Path
    context: Context = field(default_factory=Context)
    masks: bool = True

    def model_id(self, arch: Arch) -> ModelId:
        task = "segment" if self.card.config.masks else "detect"
        return ModelId("rfdetr", f"rfdetr-{arch.key}", task, arch=arch, checkpoint_sha256=self.checkpoint_sha256)

    def export(self, arch: Arch) -> Artifact:
        """The artifact of ``arch``, exported once per checkpoint."""
        path = self.folder / f"{arch.key}-{self.checkpoint_sha256[:8]}.onnx"
        if path.exists() and path.with_suffix(".json").exists():
            return load_artifact(path)
        meta = ArtifactMeta(self.model_id(arch), self.card.class_names, self.card.category_ids)
        return export_onnx(self.detector.slice(arch), path, meta=meta)

    # -- latency ------------------------------------------------------------------------------------------------------

    def measure_engines(self, archs: Sequence[Arch], protocol: Protocol = SHORT, progress: Progress = iter) -> dict[Arch, float]:
        """Median latency in ms of each exported ``arch``, measured interleaved; stored as Records of source "engine"."""
        known = {
            record.model.arch: record
            for record in self.store.read()
            if record.source == "engine"
            and record.protocol == protocol
            and record.model.checkpoint_sha256 == self.checkpoint_sha256
        }
        todo = [arch for arch in archs if arch not in known]
        sessions = {arch.key: OrtSession(self.export(arch), protocol.threads) for arch in progress(todo)}
        inputs = {key: example_input(session, self.split) for key, session in sessions.items()}
        runs = {key: (lambda s=session, x=inputs[key]: s.run(x)) for key, session in sessions.items()}
        measured = measure_interleaved(
            runs, protocol, hashes={key: session.artifact_id.sha256 for key, session in sessions.items()}
        )
        for arch in todo:
            session = sessions[arch.key]
            known[arch] = self.store.append(
                replace(
                    self._record("engine", arch),
                    artifact=session.artifact_id,
                    protocol=protocol,
                    latency=measured[arch.key].latency,
                )
            )
        return {arch: metric("latency").cost(known[arch]) for arch in archs}

    def fit_latency(self, engines: int, seed: int = 0, progress: Progress = iter) -> tuple[LatencyModel, RelativeError]:
        """The additive model, and its error on engines held out of the fit."""
        fit, heldout = choose_engines(self.space, min(engines, len(self.space)), seed)
        ms = self.measure_engines([*fit, *heldout], progress=progress)
        model = LatencyModel.fit(fit, [ms[arch] for arch in fit], self.card.config)
        return model, model.error(heldout, [ms[arch] for arch in heldout])

    # -- accuracy -----------------------------------------------------------------------------------------------------

    def evaluate_all(self, model: LatencyModel, heldout: RelativeError, progress: Progress = iter) -> list[Record]:
        """A Record of source "search" for every configuration: accuracy shared and exact, latency modelled."""
        evaluator = CocoEvaluator(self.split)
        done = {record.id: record for record in self.store.read()}
        requests = {arch: self._record("search", arch) for arch in self.space}
        for note in sorted({arch.rounding for arch in self.space} - {""}):
            print(note, flush=True)
        groups = [[arch for arch in group if requests[arch].id not in done] for group in by_backbone(self.space)]
        for group in progress([group for group in groups if group]):
            for arch, result in self._group_accuracies(group, evaluator).items():
                record = replace(requests[arch], **result, latency=model.latency(arch, heldout))
                done[record.id] = self.store.append(record)
        return [done[request.id] for request in requests.values()]

    def _group_accuracies(self, archs: list[Arch], evaluator: CocoEvaluator) -> dict[Arch, dict]:
        found = shared_detections(self.detector, self.split, archs, masks=self.masks)
        return {arch: _accuracies(evaluator, found[arch], self.masks) for arch in archs}

    def compare_costs(self, archs: list[Arch]) -> dict[str, float]:
        """Seconds for the same configurations of one backbone, shared and one by one, in one process; must agree exactly.

        The shared pass runs three times, between thirds of the others, and its median counts: a slow spell of the machine
        falls on both.
        """
        evaluator = CocoEvaluator(self.split)
        self.detector.features(next(iter(_first_images(self.split, archs[0]))), archs[0].patch, archs[0].windows)  # warm up
        shared_seconds, single_seconds, gap = [], 0.0, 0.0
        for part in (archs[0::3], archs[1::3], archs[2::3]):
            started = time.perf_counter()
            shared = self._group_accuracies(archs, evaluator)
            shared_seconds.append(time.perf_counter() - started)
            for arch in part:
                started = time.perf_counter()
                found = single_detections(self.detector.slice(arch), self.split, masks=self.masks)
                single = _accuracies(CocoEvaluator(self.split), found, self.masks)
                single_seconds += time.perf_counter() - started
                gap = max(gap, abs(shared[arch]["accuracy"].ap - single["accuracy"].ap))
        return {
            "configurations": len(archs),
            "shared_seconds": statistics.median(shared_seconds),
            "single_seconds": single_seconds,
            "largest_ap_gap": gap,
        }

    def candidates(self, records: Sequence[Record], limit: int) -> list[Arch]:
        """Architectures on the frontier of (modelled latency, AP on the search split), thinned evenly to ``limit``."""
        front = frontier(records)
        if len(front) > limit:
            front = [front[round(i * (len(front) - 1) / (limit - 1))] for i in range(limit)]
        return [record.model.arch for record in front if record.model.arch is not None]

    def _record(self, source: str, arch: Arch) -> Record:
        """A Record without results."""
        return Record(
            source,
            self.model_id(arch),
            data=DataId(self.split.name, self.split.split, self.split.sha256, len(self.split)),
            machine=this_machine(),
            campaign=self.context.campaign,
            started_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.context.command,
            seed=self.context.seed,
            env=environment(),
        )


def _accuracies(evaluator: CocoEvaluator, detections: list, masks: bool) -> dict:
    boxes = evaluator.accuracy(detections, "bbox", all_areas_only=True)
    return {"accuracy": boxes, "mask_accuracy": evaluator.accuracy(detections, "segm", all_areas_only=True) if masks else None}


def _first_images(split: CocoSplit, arch: Arch) -> Iterable:
    from ..data.loader import evaluation_batches

    return (batch.images for batch in evaluation_batches(split, arch.input_hw, 8))
