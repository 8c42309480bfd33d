"""The hypervolume of a frontier of latency and AP: AP from 0, latency up to 5 % beyond the slowest
architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rfdetr_repro.spec.arch import Arch

Array = np.ndarray[Any, Any]
BEYOND = 1.05  # end of the latencies, as a multiple of the slowest architecture's


def hypervolume(points: Mapping[Arch, float], latency_ms: Mapping[Arch, float]) -> float:
    """Area between the best AP so far and 0, from the fastest of ``points`` to 5 % beyond the
    slowest architecture of ``latency_ms``.
    """
    ordered = sorted(points, key=lambda arch: latency_ms[arch])
    ap = np.array([points[arch] for arch in ordered])
    ms = np.array([latency_ms[arch] for arch in ordered])
    return float(areas(ap[:, None], ms, beyond(np.array(list(latency_ms.values()))))[0])


def beyond(ms: Array) -> float:
    """Where the area ends, in ms, for architectures with the latencies ``ms``."""
    return BEYOND * float(ms.max())


def areas(ap: Array, ms: Array, end: float) -> Array:
    """Area below the best AP so far, up to the latency ``end``, of each column of ``ap``: float64
    (B,).

    ``ap``: float64 (configurations, B), fastest first; ``ms``: their latencies, float64
    (configurations,).
    """
    return np.diff(np.append(ms, end)) @ np.maximum.accumulate(ap, axis=0)
