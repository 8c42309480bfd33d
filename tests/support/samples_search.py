"""Shared by ``test_search.py`` and others: ERROR, QUICK, latency_model, place, run, search_in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import SPACE, TINY

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.latency_model import LatencyModel, RelativeError, features
from rfdetr_repro.search.search import Search
from rfdetr_repro.spec.protocol import Protocol

QUICK = Protocol(mode="buffered", buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)
ERROR = RelativeError(0.01, 0.02, 0.03)


def search_in(run: Path, place: Path, **changes: Any) -> Search:
    detector, card, digest = load_supernet(run / "supernet.safetensors")
    split = read_split(place / "data", "val")
    store = Store(run / "records.jsonl")
    fields: dict[str, Any] = {"space": SPACE, "masks": card.config.masks, **changes}
    space = fields.pop("space")
    return Search(detector, card, digest, space, split, store, run / "artifacts", **fields)


def latency_model(search: Search) -> LatencyModel:
    """Milliseconds that grow with tokens, layers and queries."""
    names = features(TINY.arch, search.card.config)
    cost = {"constant": 1.0, "tokens": 0.01, "decoder_layers": 0.3, "queries": 0.02}
    return LatencyModel({name: cost.get(name, 0.0) for name in names}, search.card.config)
