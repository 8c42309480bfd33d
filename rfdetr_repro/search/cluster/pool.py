"""Workers of a search behind one interface: this process (:class:`LocalPool`) or many machines
(``ray_pool.RayPool``).

A pool knows nothing about searches. ``make``, a picklable callable without arguments, runs once on
every worker, loads the data that the work needs from a shared folder, and returns the function from
item to result. Only the driver receives results and writes the store.
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
    """The interface of a pool.

    Items are small frozen dataclasses, results are dataclasses or arrays.
    """

    def run(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in order of completion, each item exactly once; closing the
        iterator stops the work.
        """
        ...

    def close(self) -> None:
        """Ends the workers."""


class LocalPool:
    """Works in this process, in order; ``make`` runs before the first item."""

    def __init__(self, make: Make) -> None:
        """``make`` returns the function from item to result."""
        self.make = make
        self._work: Work | None = None

    def run(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in the order of ``items``."""
        for item in items:
            if self._work is None:
                self._work = self.make()
            yield item, self._work(item)

    def close(self) -> None:
        """Drops the function; the next run calls ``make`` again."""
        self._work = None


class Ticket(NamedTuple):
    """An attempt at an item, which is named by its number."""

    item: int
    attempt: int


class Ledger:
    """Bookkeeping of items: waiting, in work, done or failed.

    Only the latest ticket of an item counts, so that no result is delivered twice.
    """

    def __init__(self, count: int, retries: int) -> None:
        """``count`` waiting items, each with ``retries`` further attempts after a lost worker."""
        self.retries = retries
        self.failures: dict[int, str] = {}  # item -> reason for giving up
        self._waiting = deque(range(count))
        self._attempts = [0] * count
        self._at_work: set[Ticket] = set()

    @property
    def open(self) -> int:
        """Number of items that are waiting or in work."""
        return len(self._waiting) + len(self._at_work)

    def take(self) -> Ticket | None:
        """A ticket for the next item, or None if no item is waiting."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._attempts[item] += 1
        ticket = Ticket(item, self._attempts[item])
        self._at_work.add(ticket)
        return ticket

    def done(self, ticket: Ticket) -> bool:
        """Whether the result of this ticket counts; False if the item was assigned again meanwhile,
        so that the result must be dropped.
        """
        counts = ticket in self._at_work
        self._at_work.discard(ticket)
        return counts

    def lost(self, ticket: Ticket, reason: str) -> None:
        """Handles a lost worker: the item is next in line, or fails after ``retries`` further
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
    """A worker's first answer: its versions and its machine.

    ``versions``: versions of Python (minor), of this package and its source, and of the packages
    that results depend on.
    """

    versions: dict[str, str]
    machine: Machine

    def device(self, gpu: bool) -> str:
        """The device that latencies belong to; latencies of two devices are never mixed."""
        machine = self.machine
        return (
            f"{machine.gpu} (driver {machine.driver})"
            if gpu
            else f"{machine.cpu} ({machine.cores} cores)"
        )

    def differences(self, other: Fingerprint) -> str:
        """Differing versions, such as "torch 2.12 there, 2.13 here", where ``other`` is here; empty
        if all versions agree.
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
    """The fingerprint of this process."""
    versions = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "source": _source_sha256()[:12],
    }
    for package in ("rfdetr-repro", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except (
            importlib.metadata.PackageNotFoundError
        ):  # a missing package: "absent" differs from any version
            continue
    return Fingerprint(versions, this_machine())


@lru_cache
def _source_sha256() -> str:
    """Hash of this package's Python files, because two checkouts of one version may differ."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()
