"""Work on many machines through Ray: each free worker gets one item, and the item of a lost worker
goes to another worker.

A worker is an actor. A worker reports its fingerprint, is refused if its versions differ from the
driver's, runs ``make`` once, and then works. Machines may join and leave at any time.
``docs/many_machines.md`` shows how to start them.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rfdetr_repro.bench.machine import usable_cores
from rfdetr_repro.spec.errors import InputError, StatedFailure, first_line

from .pool import Fingerprint, Ledger, Make, Ticket, fingerprint_here
from .ray_actor import RayWorker
from .ray_cluster import Cluster, Node

log = logging.getLogger(__name__)

POLL_S = 0.5  # s to wait for a result before looking for new machines
# intervals in s at which a worker is asked for a sign of life, and silence after which it is given
# up
PULSE_S = 10.0
SILENT_S = 120.0
# s without any worker: until a line is printed, and until the end if no machine can take a worker
NOTICE_S = 10.0
PATIENCE_S = 120.0
# crashes of a machine's workers before their first result, after which the machine is refused
MOST_CRASHES = 3
FREE = "free"
HELLO = "hello"
START = "start"
WORK = "work"


@dataclass(eq=False)
class _Member:
    """A worker, from the driver's view.

    ``ref``: the pending answer of the present stage; ``pulse``: the pending sign of life.
    """

    actor: Any
    node: Node
    ref: Any
    stage: str = HELLO
    ticket: Ticket | None = None
    pulse: Any = None
    asked_at: float = 0.0

    @property
    def place(self) -> str:
        return f"worker on {self.node.name} (node {self.node.id[:8]})"


class RayPool:
    """A :class:`~rfdetr_repro.search.cluster.pool.Pool` of up to ``workers`` actors, or as many as
    fit.

    ``address``: None starts a cluster on this machine; "auto" or HOST:PORT joins a running cluster.
    Each worker has ``threads`` CPUs and ``gpus`` GPUs. ``exclusive``, for latencies: one worker per
    machine, which claims all CPUs and GPUs of the machine, and only machines with the first
    worker's device; the results of ``work`` name the machine. An item whose worker dies is tried
    ``retries`` more times; then :meth:`run` raises :class:`StatedFailure` after all other items are
    done. :meth:`run` raises the errors of ``work``, and :class:`InputError` if no worker is left or
    available. ``fingerprint`` runs in this process and on every worker. A process can have one pool
    at a time.
    """

    def __init__(
        self,
        make: Make,
        workers: int | None = None,
        address: str | None = None,
        exclusive: bool = False,
        threads: int = 1,
        gpus: float = 0.0,
        retries: int = 2,
        fingerprint: Callable[[], Fingerprint] = fingerprint_here,
    ) -> None:
        """Starts or joins the cluster; raises :class:`InputError` for impossible numbers and
        without Ray or a cluster.
        """
        if threads < 1 or (workers is not None and workers < 1) or gpus < 0 or retries < 0:
            raise InputError(
                "a pool needs at least one worker of one thread", hint="give positive numbers"
            )
        self.make = make
        self.workers = workers
        self.exclusive = exclusive
        self.threads = threads
        self.gpus = gpus
        self.retries = retries
        self.fingerprint = fingerprint
        self.here = fingerprint()
        self.device: str | None = None  # device of the first accepted worker of an exclusive pool
        self._members: list[_Member] = []
        self._refused: dict[str, str] = {}  # node id -> reason
        self._crashes: Counter[str] = Counter()
        self._raised_by_work: Exception | None = None
        self._alone_since: float | None = None
        self._noticed = False
        self._looked_at = float("-inf")
        self.cluster = Cluster(address, workers * threads if workers else usable_cores())
        self.ray = self.cluster.ray
        atexit.register(self.close)

    @property
    def size(self) -> int:
        """Number of workers that were accepted and have run ``make``."""
        return sum(member.stage in (FREE, WORK) for member in self._members)

    def run(self, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in order of completion, each item exactly once."""
        ledger = Ledger(len(items), self.retries)
        try:
            while ledger.open:
                self._recruit(ledger)
                self._hand_out(items, ledger)
                finished = self._collect(ledger)
                self._hand_out(items, ledger)  # before the caller processes the results
                for ticket, result in finished:
                    yield items[ticket.item], result
                # after the results that were finished at the same time
                if self._raised_by_work is not None:
                    raise self._raised_by_work
        finally:
            self._raised_by_work = None
            for member in [member for member in self._members if member.stage == WORK]:
                self._dismiss(member)
        if ledger.failures:
            lost = (
                f"{len(ledger.failures)} of {len(items)} items lost their worker "
                f"{self.retries + 1} times"
            )
            which = "; ".join(
                f"{items[number]!r}: {reason}" for number, reason in sorted(ledger.failures.items())
            )
            raise StatedFailure(f"{lost}: {which}")

    def close(self) -> None:
        """Ends all workers and leaves the cluster."""
        atexit.unregister(self.close)
        for member in list(self._members):
            self._dismiss(member)
        self.cluster.close()

    # -- workers join ------------------------------------------------------------------------------

    def _recruit(self, ledger: Ledger) -> None:
        """Starts workers where there is room, at most one per open item; queries the cluster every
        POLL_S seconds.
        """
        if time.monotonic() - self._looked_at < POLL_S:
            return
        self._looked_at = time.monotonic()
        nodes = [
            node
            for node in self.cluster.nodes()
            if node.slots(self.threads, self.gpus, self.exclusive)
        ]
        welcome = [node for node in nodes if node.id not in self._refused]
        self._check_hope(nodes, welcome)
        most = min(ledger.open, self.workers or ledger.open)
        held = Counter(member.node.id for member in self._members)
        while welcome and len(self._members) < most:
            free = {
                node: node.slots(self.threads, self.gpus, self.exclusive) - held[node.id]
                for node in welcome
            }
            node = max(free, key=lambda node: free[node])
            if free[node] < 1:
                break
            held[node.id] += 1
            self._members.append(self._start(node))

    def _start(self, node: Node) -> _Member:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node.id, soft=False
        )
        resources = self.ray.remote(
            num_cpus=node.cpus if self.exclusive else self.threads,
            num_gpus=(node.gpus if self.exclusive else self.gpus) if self.gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=strategy,
            concurrency_groups={"pulse": 1},
        )
        actor = resources(RayWorker).remote()
        return _Member(actor, node, actor.hello.remote(self.threads, self.fingerprint))

    def _check_hope(self, nodes: list[Node], welcome: list[Node]) -> None:
        """Without any worker: prints one line, and raises when waiting is pointless or has lasted
        too long.
        """
        if any(member.stage in (START, WORK, FREE) for member in self._members):
            self._alone_since = None
            self._noticed = False
            return
        if nodes and not welcome and not self._members:
            reason = list(self._refused.values())[-1]
            raise InputError(
                f"no worker is left; the last worker was refused: {reason}", self._where()
            )
        self._alone_since = self._alone_since or time.monotonic()
        waited_s = time.monotonic() - self._alone_since
        if not nodes and (self.cluster.local or waited_s > PATIENCE_S):
            raise InputError(
                "no machine can take a worker", self._where(), f"each needs {self._needs()}"
            )
        if waited_s > NOTICE_S and not self._noticed:
            self._noticed = True
            _say(f"waiting for a machine with {self._needs()} free, in {self._where()}")

    def _where(self) -> str:
        return "the local cluster" if self.cluster.local else f"the cluster {self.cluster.address}"

    def _needs(self) -> str:
        cpus = (
            f"all its CPUs ({self.threads} or more)" if self.exclusive else f"{self.threads} CPU(s)"
        )
        return f"{cpus} and {self.gpus:g} GPU(s)" if self.gpus else cpus

    # -- and work ----------------------------------------------------------------------------------

    def _hand_out(self, items: Sequence[Any], ledger: Ledger) -> None:
        for member in self._members:
            if member.stage == FREE and (ticket := ledger.take()) is not None:
                member.stage = WORK
                member.ticket = ticket
                member.ref = member.actor.work.remote(items[ticket.item])
                member.pulse = None
                member.asked_at = time.monotonic()

    def _collect(self, ledger: Ledger) -> list[tuple[Ticket, Any]]:
        """Results that arrived within POLL_S seconds; advances workers and detects dead workers."""
        owed = {member.ref: member for member in self._members if member.ref is not None}
        if not owed:
            time.sleep(POLL_S)
            return []
        self.ray.wait(list(owed), timeout=POLL_S)
        ready, _ = self.ray.wait(list(owed), num_returns=len(owed), timeout=0)
        finished: list[tuple[Ticket, Any]] = []
        for ref in ready:
            member = owed[ref]
            if member not in self._members:  # dismissed together with another worker of its machine
                continue
            try:
                answer = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                self._raised(member, error)
            except self.ray.exceptions.RayError as error:
                self._lost(member, ledger, _reason(error))
            else:
                self._answered(member, answer, ledger, finished)
        self._feel_pulses(ledger)
        return finished

    def _answered(
        self, member: _Member, answer: Any, ledger: Ledger, finished: list[tuple[Ticket, Any]]
    ) -> None:
        if member.stage == HELLO:
            self._judge(member, answer)
            return
        if member.ticket is not None and ledger.done(member.ticket):
            finished.append((member.ticket, answer))
        member.stage = FREE
        member.ref = None
        member.ticket = None

    def _judge(self, member: _Member, there: Fingerprint) -> None:
        """Accepts the worker, or refuses it with a printed line."""
        if different := there.differences(self.here):
            self._refuse(member, different)
            return
        device = there.device(gpu=self.gpus > 0)
        if self.exclusive and device != (self.device or device):
            self._refuse(
                member,
                f"the device there is {device}, and {self.device} is already measuring; latencies "
                f"of two devices are never mixed",
            )
            return
        self.device = device if self.exclusive else None
        member.ref = member.actor.start.remote(self.make)
        member.stage = START

    # -- workers leave -----------------------------------------------------------------------------

    def _raised(self, member: _Member, error: Any) -> None:
        """Handles an exception: an error of the work ends the run with that error; a worker that
        cannot start is refused.
        """
        cause = error.cause if isinstance(error.cause, Exception) else error
        if member.stage == WORK:
            # with the traceback of the worker
            cause.__cause__ = error if cause is not error else None
            self._raised_by_work = cause
            self._dismiss(member)
        else:
            self._refuse(member, f"{type(cause).__name__}: {first_line(cause)}")

    def _refuse(self, member: _Member, reason: str) -> None:
        """The machine gets no further worker; its present workers go on."""
        if member.node.id not in self._refused:
            _say(f"{member.place} refused: {reason}")
        self._refused[member.node.id] = reason
        self._dismiss(member)

    def _lost(self, member: _Member, ledger: Ledger, reason: str) -> None:
        _say(f"{member.place} lost: {reason}")
        self._dismiss(member)
        if member.ticket is not None:
            ledger.lost(member.ticket, reason)
        elif member.stage in (HELLO, START):
            self._crashes[member.node.id] += 1
            if self._crashes[member.node.id] >= MOST_CRASHES:
                self._refuse(
                    member,
                    f"{MOST_CRASHES} workers died before their first result, the last because: "
                    f"{reason}",
                )

    def _dismiss(self, member: _Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self.ray.kill(member.actor)

    def _feel_pulses(self, ledger: Ledger) -> None:
        """Asks workers for a sign of life, because a stopped process or a hanging machine does not
        close its connection.
        """
        for member in [member for member in self._members if member.stage == WORK]:
            if member.pulse is not None and self.ray.wait([member.pulse], timeout=0)[0]:
                member.pulse = None
            waited_s = time.monotonic() - member.asked_at
            if member.pulse is None and waited_s > PULSE_S:
                member.pulse = member.actor.pulse.options(concurrency_group="pulse").remote()
                member.asked_at = time.monotonic()
            elif member.pulse is not None and waited_s > SILENT_S:
                self._lost(member, ledger, f"no sign of life for {SILENT_S:g} s")


def _say(line: str) -> None:
    log.warning(line)


def _reason(error: Any) -> str:
    """Ray's reason for a death, without the ids before it and the advice after it."""
    text = " ".join(str(error).split())
    text = text[max(0, text.find("The actor is dead because")) :].partition(" Some common causes")[
        0
    ]
    return f"{type(error).__name__}: {text[:300]}"
