"""``summary.json`` of a run: the facts that the report needs in addition to Records and training
log.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rfdetr_repro.records.model_check import model_checks
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.departures import departures
from rfdetr_repro.spec.files import write_atomic


def write_summary(
    run: Any,
    splits: dict[str, Any],
    *,
    started_at: str,
    search: Any,
    fit: Any,
    costs: dict[str, Any],
) -> None:
    """Writes ``summary.json``, the facts that the report needs in addition to Records and log."""
    from rfdetr_repro.bench.machine import environment, this_machine

    content = {
        "title": run.campaign.title,
        "campaign": run.campaign.name,
        "command": run.command,
        "started_at": started_at,
        "finished_at": run.stages.keep("finished", lambda: {"at": utc_now()})["at"],
        "machine": asdict(this_machine()),
        "env": environment(),
        "stages": run.stages.timed(),
        "data": {
            "description": splits["train"].description,
            "splits": {
                name: {"images": len(split), "sha256": split.sha256}
                for name, split in splits.items()
            },
        },
        "recipe": {**asdict(run.campaign.train), "model": search.card.config.stated()},
        "departures": departures(run.campaign),
        "checks": [
            f"box AP of {costs['configurations']} configurations in the shared pass and one by "
            f"one: {_difference(costs)}",
            f"exports: {run.stages.rows['confirm']['detail']}",
            "accuracy and latency of every confirmed row come from the file with its SHA-256",
        ],
        "search": _economy(run, search, fit, costs),
    }
    write_atomic(run.folder / "summary.json", json.dumps(content, indent=1))


def _difference(costs: dict[str, Any]) -> str:
    """The largest difference in words; some processors sum the products of a smaller batch in
    another order.
    """
    gap = costs.get("largest_ap_gap")
    if gap is None:
        return "within the bound of the check, by how much was not kept"
    return f"{100 * gap:.2g} points apart at most" if gap else "equal"


def _economy(run: Any, search: Any, fit: Any, costs: dict[str, Any]) -> dict[str, Any]:
    """The cost of the search, and the cost of evaluating configurations one by one."""
    timed = costs["configurations"]
    return {
        "configurations": len(search.space),
        "backbones": len({arch.backbone for arch in search.space}),
        "shared_seconds": run.stages.rows["search"]["seconds"],
        "one_by_one": {
            "configurations_timed": timed,
            "seconds_per_configuration": costs["single_seconds"] / timed,
            "shared_seconds_per_configuration": costs["shared_seconds"] / timed,
            "speedup": costs["speedup"],
        },
        "latency_model": {
            "engines_measured": fit.engines,
            "heldout": fit.engines,
            "heldout_median_error": fit.heldout.median,
            "heldout_p95_error": fit.heldout.p95,
            "heldout_max_error": fit.heldout.maximum,
            "mode": run.campaign.latency_mode,
            **_confirmed(run),
        },
    }


def _confirmed(run: Any) -> dict[str, Any]:
    """The error of the latency model's predictions for the confirmed files."""
    checks = [check for check in model_checks(run.store.read()) if check.predicted_ms]
    if not checks:
        return {}
    check = checks[-1]
    return {
        "confirmed": len(check.errors),
        "confirmed_median_error": check.median,
        "confirmed_max_error": check.worst,
        "within_bound": check.within_bound,
    }
