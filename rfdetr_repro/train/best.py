"""The best weights of a run so far, and the rule that stops a run (in place of a learning-rate
schedule).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rfdetr_repro.spec.metrics import percent

CHOOSING_SPLIT = "val"


@dataclass
class Best:
    """``ap`` is the best validation AP, a fraction; ``weights`` is "ema" or "raw"; ``misses``
    counts the evaluations since.
    """

    ap: float = -1.0
    step: int = 0
    weights: str = "ema"
    misses: int = 0

    def consider(
        self, step: int, candidates: Mapping[str, Iterable[Mapping[str, Any]]]
    ) -> str | None:
        """Returns the name of the weights that are the new best, or None.

        ``candidates``: name of the weights -> rows of an evaluation.
        """
        found = {
            name: ap for name, rows in candidates.items() if (ap := choosing_ap(rows)) is not None
        }
        name = max(found, key=lambda one: found[one], default=None)
        if name is None or found[name] <= self.ap:
            self.misses += 1
            return None
        self.ap = found[name]
        self.step = step
        self.weights = name
        self.misses = 0
        return name

    def describe(self) -> str:
        """One line to print, like "best: step 400, ema weights, val AP 52.10"."""
        return (
            f"best: step {self.step}, {self.weights} weights, val AP {percent(self.ap, digits=2)}"
        )

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Best:
        """Inverse of :meth:`to_json`."""
        return cls(**json.loads(text))


def choosing_ap(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """AP on the validation split, a fraction; None where the split has no objects."""
    return next((row["ap"] for row in rows if row.get("split") == CHOOSING_SPLIT), None)
