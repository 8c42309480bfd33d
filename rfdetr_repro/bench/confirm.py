"""One artifact, one session: accuracy on each split, latency by each protocol, and a Record for every pair.

What is stored already for this file, data, protocol and machine is not measured again. Raw latency samples lie beside the store,
as ``samples/SHA256.npy``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np

from ..config import Protocol
from ..data.coco import CocoSplit
from ..errors import InputError, StatedFailure
from ..export.artifact import Artifact
from ..export.session import OrtSession, Session
from ..files import sha256_bytes, write_atomic
from ..record import Accuracy, DataId, Latency, Record
from ..store import Store
from .accuracy import Array, Progress, accuracy_of, model_input
from .machine import environment, this_machine
from .protocol import measure


@dataclass(frozen=True)
class Context:
    """What is the same for all Records of a campaign."""

    campaign: str | None = None
    command: str | None = None
    seed: int | None = None
    max_dets: int = 100


def confirm(
    artifact: Artifact,
    splits: Sequence[CocoSplit],
    protocols: Sequence[Protocol],
    store: Store,
    *,
    context: Context | None = None,
    session: Session | None = None,
    progress: Progress = iter,
) -> list[Record]:
    """Records of every (split, protocol), split-major; without splits latency only. Appends the new ones to ``store``.

    Accuracy and latency come from one session object; one that opened another file is a :class:`StatedFailure`.
    """
    context = context or Context()
    if not protocols or len({protocol.threads for protocol in protocols}) > 1:
        raise InputError("the protocols of one confirmation must name one number of threads", artifact.path)
    if splits and artifact.manifest.model.weights == "random":
        raise InputError("a model with random weights has no accuracy", artifact.path, "measure its latency without data")
    session = session or OrtSession(artifact, protocols[0].threads)
    if session.artifact_id.sha256 != artifact.sha256:
        opened, named = session.artifact_id.sha256[:12], artifact.sha256[:12]
        raise StatedFailure(f"the session opened {opened}, the artifact is {named}: accuracy and latency must come from one file")
    data: list[DataId | None] = [_data(split) for split in splits] or [None]
    requests = [_request(session, part, protocol, context) for part in data for protocol in protocols]
    done = {record.id: record for record in store.read() if record.artifact == session.artifact_id}
    missing = [request for request in requests if request.id not in done]
    wanted = {request.protocol for request in missing if request.protocol}
    latencies = {protocol: _latency(session, splits, protocol, store) for protocol in protocols if protocol in wanted}
    accuracies = {
        _data(split): accuracy_of(session, split, max_dets=context.max_dets, progress=progress)
        for split in splits
        if any(request.data == _data(split) for request in missing)
    }
    for request in missing:
        boxes, masks = accuracies[request.data] if request.data else (None, None)
        latency = latencies[request.protocol] if request.protocol else None
        done[request.id] = store.append(_with_results(request, boxes, masks, latency))
    return [done[request.id] for request in requests]


def _request(session: Session, data: DataId | None, protocol: Protocol, context: Context) -> Record:
    """The Record without its results; its id tells whether it is stored."""
    return Record(
        source="protocol",
        model=session.manifest.model,
        data=data,
        artifact=session.artifact_id,
        cost=session.manifest.cost,
        protocol=protocol,
        machine=this_machine(),
        campaign=context.campaign,
        command=context.command,
        seed=context.seed,
    )


def _data(split: CocoSplit) -> DataId:
    return DataId(split.name, split.split, split.sha256, len(split))


def _with_results(request: Record, boxes: Accuracy | None, masks: Accuracy | None, latency: Latency | None) -> Record:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return replace(request, accuracy=boxes, mask_accuracy=masks, latency=latency, started_at=now, env=environment())


def _latency(session: Session, splits: Sequence[CocoSplit], protocol: Protocol, store: Store) -> Latency:
    """Measures on one fixed image (a static graph's time does not depend on it) and keeps the raw samples."""
    image = example_input(session, splits[0] if splits else None)
    measured = measure(lambda: session.run(image), protocol, artifact_sha256=session.artifact_id.sha256)
    return replace(measured.latency, samples_sha256=save_samples(store, measured.samples_ms))


def example_input(session: Session, split: CocoSplit | None) -> Array:
    """float32 (1, 3, H, W) in 0..1: the first image of ``split``, or seeded noise."""
    if split is not None and len(split):
        return model_input(split.load_image(0), session.manifest.input_hw)
    return np.random.default_rng(0).random(session.manifest.inputs[0].shape, dtype=np.float32)


def save_samples(store: Store, samples_ms: Array) -> str:
    """Writes float64 milliseconds to ``samples/SHA256.npy`` beside the store; returns the SHA-256 of that file."""
    content = io.BytesIO()
    np.save(content, np.asarray(samples_ms, dtype=np.float64), allow_pickle=False)
    digest = sha256_bytes(content.getvalue())
    write_atomic(store.path.parent / "samples" / f"{digest}.npy", content.getvalue())
    return digest
