"""Where a stage of a longer flow stands, for its progress lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage of a flow, such as the training in a campaign.

    ``rest_s``: estimated seconds of all later stages together; None: not known.
    """

    number: int  # from 1
    of: int
    title: str
    rest_s: float | None = None

    def __str__(self) -> str:
        return f"stage {self.number} of {self.of}: {self.title}"
