"""The GPU state that a Record keeps, from the windows of the GPU watch (benchmark protocol section
4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rfdetr_repro.records.record import GpuState

from .watch import Window


def gpu_state(
    windows: Sequence[tuple[Window, bool, float]],
    idle_power_w: float | None,
    closed_loop: bool,
    images: int,
    *,
    rested_s: float = 0.0,
) -> GpuState | None:
    """The GPU state of a measurement; None without a watch.

    ``windows``: each window with a flag whether its block counts and the seconds spent in its
    calls. ``closed_loop``: whether the calls followed each other without waits. The energy, in J,
    is that of the calls of the counted blocks: a window is slightly longer than its calls, and its
    energy is reduced in proportion.
    """
    if not windows:
        return None
    kept = [(window, busy_s) for window, is_kept, busy_s in windows if is_kept]
    spent_s = _throttled_s([window for window, _, _ in windows])
    clocks: Counter[int] = Counter()
    for window, _ in kept:
        clocks.update(window.clocks or {})
    readings = sum(clocks.values())
    powers = [window.power_w for window, _ in kept if window.power_w is not None]
    idle = [window.idle_share for window, _ in kept if window.idle_share is not None]
    joules = _joules(kept, images) if closed_loop else None
    busy_s = sum(busy_s for _, busy_s in kept)
    return GpuState(
        throttled_s=spent_s or None,
        sm_mhz={str(mhz): clocks[mhz] / readings for mhz in sorted(clocks)} if readings else None,
        temperature_c=max(
            (window.temperature_c for window, _ in kept if window.temperature_c is not None),
            default=None,
        ),
        power_w=sum(powers) / len(powers) if powers else None,
        idle_power_w=idle_power_w,
        idle_share=sum(idle) / len(idle) if idle else None,
        joules_per_image=joules,
        net_joules_per_image=None
        if joules is None or idle_power_w is None
        else joules - idle_power_w * busy_s / images,
        unknown="; ".join(sorted({window.unknown for window, _, _ in windows if window.unknown}))
        or None,
        throttled_share=_throttled_share([window for window, _, _ in windows]),
        rested_s=rested_s,
        other_programs=_other_programs([window for window, _, _ in windows]),
    )


def _throttled_s(windows: Sequence[Window]) -> dict[str, float]:
    """Cause -> seconds over all windows, for the causes that the driver counted in every window."""
    counted = [window.throttled_s or {} for window in windows]
    causes = sorted(set.intersection(*map(set, counted)))
    return {cause: sum(spent[cause] for spent in counted) for cause in causes}


def _throttled_share(windows: Sequence[Window]) -> dict[str, float] | None:
    """Cause -> fraction of the time of all windows, or None where no fraction is known."""
    known = [(window.shares, window.seconds) for window in windows if window.shares is not None]
    total = sum(seconds for _, seconds in known)
    if not total:
        return None
    causes = sorted({cause for shares, _ in known for cause in shares})
    return {
        cause: sum(shares.get(cause, 0.0) * seconds for shares, seconds in known) / total
        for cause in causes
    }


def _other_programs(windows: Sequence[Window]) -> int | None:
    """Foreign processes over all windows; None where no process was seen and the driver did not
    report processes in every window.
    """
    seen = {pid for window in windows for pid in window.processes}
    blind = any(not window.readings or "processes" in window.unknown for window in windows)
    return None if blind and not seen else len(seen)


def _joules(kept: Sequence[tuple[Window, float]], images: int) -> float | None:
    if not images or any(window.energy_j is None or not window.seconds for window, _ in kept):
        return None
    spent = [
        (window.energy_j or 0.0) * min(1.0, busy_s / window.seconds) for window, busy_s in kept
    ]
    return sum(spent) / images
