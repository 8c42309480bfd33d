"""Machines and work for the pool tests. A module of its own: workers import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.search.cluster.pool import Fingerprint, fingerprint_here
from rfdetr_repro.spec.errors import InputError


@contextmanager
def two_machines(cpus: int) -> Iterator[Any]:
    """A Ray cluster of two machines of ``cpus`` CPUs each, pretended on this one; pools join it by
    its ``address``.
    """
    import ray
    from ray.cluster_utils import Cluster

    path = os.environ.get("PYTHONPATH", "")
    handler = signal.getsignal(signal.SIGTERM)
    folders = (Path(__file__).resolve().parents[2], Path(__file__).resolve().parent)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([*map(str, folders), path]),
    }
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=cpus)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ["PYTHONPATH"] = path
    # Ray's own stays in the process, and a process forked from it would swallow the signal
    signal.signal(signal.SIGTERM, handler)


@dataclass(frozen=True)
class Square:
    number: int


@dataclass(frozen=True)
class Answer:
    number: int
    values: np.ndarray  # float64 (3,)
    pid: int
    node: str
    threads: str


def node_id() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


@dataclass(frozen=True)
class MakeSquares:
    """Squares numbers; each attempt is a line in ``folder``/log.

    Number ``fatal`` kills its process the first ``kills`` times. Nothing is computed before
    ``together`` workers exist.
    """

    folder: str
    seconds: float = 0.02
    fatal: int = -1
    kills: int = 1
    sign: int = signal.SIGKILL
    forbidden: int = -1
    together: int = 1

    def __call__(self) -> Callable[[Square], Answer]:
        self.log("make")
        return self.work

    def work(self, item: Square) -> Answer:
        self.log(f"{item.number} {os.getpid()}")
        if item.number == self.fatal and self.lines().count("killed") < self.kills:
            self.log("killed")
            os.kill(os.getpid(), self.sign)
        if item.number == self.forbidden:
            raise InputError("no such number", f"item {item.number}", "leave it out")
        while self.lines().count("make") < self.together:
            time.sleep(0.05)
        time.sleep(self.seconds)
        values = np.arange(3) * float(item.number**2)
        return Answer(
            item.number, values, os.getpid(), node_id(), os.environ.get("OMP_NUM_THREADS", "")
        )

    def log(self, line: str) -> None:
        with open(Path(self.folder, "log"), "a") as stream:
            stream.write(line + "\n")

    def lines(self) -> list[str]:
        return Path(self.folder, "log").read_text().splitlines()


@dataclass(frozen=True)
class MakeNothing:
    """A worker that cannot begin: its data are not there."""

    def __call__(self) -> Callable[[Square], Answer]:
        raise InputError("cannot read", "/nowhere/data", "mount the shared folder")


@dataclass(frozen=True)
class OtherVersion:
    """The fingerprint of this process where it was made, and of another torch elsewhere."""

    pid: int

    def __call__(self) -> Fingerprint:
        found = fingerprint_here()
        return (
            found
            if os.getpid() == self.pid
            else replace(found, versions={**found.versions, "torch": "1.0"})
        )


@dataclass(frozen=True)
class DeviceOfNode:
    """The first worker that asks has processor "one", workers of other nodes have "two"; ``folder``
    remembers.
    """

    folder: str
    pid: int

    def __call__(self) -> Fingerprint:
        found = fingerprint_here()
        if os.getpid() == self.pid:
            return found
        mark = Path(self.folder, "first")
        try:
            with open(mark, "x") as stream:
                stream.write(node_id())
        except FileExistsError:
            while not mark.read_text():
                time.sleep(0.01)
        name = "one" if mark.read_text() == node_id() else "two"
        return replace(found, machine=replace(found.machine, cpu=name))
