"""Who does the work of a search: this process (:class:`LocalPool`) or many machines
(``ray_pool.RayPool``), by one interface.

A pool knows nothing of searches. ``make``, a picklable callable without arguments, runs once on
every worker, loads what the work needs from a shared folder and returns the function from item to
result. The driver alone receives results and writes the store.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rfdetr_repro.bench.machine import PACKAGES, this_machine
from rfdetr_repro.records.record import Machine

Work = Callable[[Any], Any]
Make = Callable[[], Work]


class Pool(Protocol):
    """Items are small frozen dataclasses, results dataclasses or arrays."""

    def run(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """(item, result) in order of completion, each item exactly once; closing the iterator stops
        the work.
        """
        ...

    def close(self) -> None: ...


class LocalPool:
    """Works in this process, in order; ``make`` runs when the first item is worked on."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self._work: Work | None = None

    def run(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for item in items:
            if self._work is None:
                self._work = self.make()
            yield item, self._work(item)

    def close(self) -> None:
        self._work = None


class Ticket(NamedTuple):
    """One attempt at one item, by its number."""

    item: int
    attempt: int


class Ledger:
    """Which items wait, are at work, are done or failed.

    Of an item's tickets only the latest counts: nothing comes twice.
    """

    def __init__(self, count: int, retries: int) -> None:
        self.retries = retries
        self.failures: dict[int, str] = {}  # item -> why it was given up
        self._waiting = deque(range(count))
        self._attempts = [0] * count
        self._at_work: set[Ticket] = set()

    @property
    def open(self) -> int:
        """Items that wait or are at work."""
        return len(self._waiting) + len(self._at_work)

    def take(self) -> Ticket | None:
        """A ticket for the next item, or None while none waits."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._attempts[item] += 1
        ticket = Ticket(item, self._attempts[item])
        self._at_work.add(ticket)
        return ticket

    def done(self, ticket: Ticket) -> bool:
        """Whether the result of this ticket counts; False: its item was handed out again meanwhile,
        drop the result.
        """
        counts = ticket in self._at_work
        self._at_work.discard(ticket)
        return counts

    def lost(self, ticket: Ticket, reason: str) -> None:
        """The worker is gone: its item is next in line, or fails after ``retries`` further
        attempts.
        """
        if not self.done(ticket):
            return
        if ticket.attempt > self.retries:
            self.failures[ticket.item] = reason
        else:
            self._waiting.appendleft(ticket.item)


@dataclass(frozen=True)
class Fingerprint:
    """What a worker answers first.

    ``versions``: of Python (minor), this package, its source, and what its results depend on.
    """

    versions: dict[str, str]
    machine: Machine

    def device(self, gpu: bool) -> str:
        """What a latency measured here belongs to; two devices are never mixed."""
        machine = self.machine
        return (
            f"{machine.gpu} (driver {machine.driver})"
            if gpu
            else f"{machine.cpu} ({machine.cores} cores)"
        )

    def differences(self, other: Fingerprint) -> str:
        """Like "torch 2.12 there, 2.13 here", where ``other`` is here; empty if all versions
        agree.
        """
        names = sorted({*self.versions, *other.versions})
        pairs = [
            (name, self.versions.get(name, "absent"), other.versions.get(name, "absent"))
            for name in names
        ]
        return "; ".join(
            f"{name} {there} there, {here} here" for name, there, here in pairs if there != here
        )


def fingerprint_here() -> Fingerprint:
    versions = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "source": _source_sha256()[:12],
    }
    for package in ("rfdetr-repro", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except (
            importlib.metadata.PackageNotFoundError
        ):  # not installed: "absent" there differs from a version here
            continue
    return Fingerprint(versions, this_machine())


@lru_cache
def _source_sha256() -> str:
    """Of this package's Python files: two checkouts of one version may differ."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()
