"""What a claim of the paper consists of: comparisons, and the region in which each effect must lie.
No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .data_sets import PER_LOCATION, Aggregate
from .pairs import Pairing

AP = "AP"
LATENCY = "latency"
TAIL = "tail"  # the 90th percentile of a session's latencies, above its median
UNITS = {
    AP: "points",
    LATENCY: "%",
    TAIL: "% of the median",
    PER_LOCATION: "% of the image per patch",
}


@dataclass(frozen=True)
class Expected:
    """The region of effects of which the claim is true, in the unit of the comparison; None: no
    bound on that side.
    """

    words: str
    least: float | None = None
    most: float | None = None

    @property
    def margin(self) -> bool:
        """Whether a bound is another number than 0."""
        return bool(self.least) or bool(self.most)


@dataclass(frozen=True)
class Comparison:
    """One measurable part of a claim. The effect is that of the second side minus the first.

    ``of_training``: other trainings could give another answer, so that only seeds decide.
    ``own_start``: both sides start otherwise than their study, which ``what`` says.
    ``of_gpu``: what other processors do has a row, and no part in the verdict of the claim.
    ``aside``: why no row has a part in that verdict; "" where rows have.
    ``studies``: ids of the studies that write the Records; none where another command does, or
    nothing in this package can. ``command``: what writes the Records. ``missing``: what is not
    there.
    """

    id: str
    what: str
    expected: Expected
    pairing: Pairing | Aggregate | None
    measure: str = AP
    of_training: bool = False
    of_gpu: bool = False
    own_start: bool = False
    aside: str = ""
    studies: tuple[str, ...] = ()
    command: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper."""

    id: str
    sentence: str
    place: str
    comparisons: tuple[Comparison, ...]
