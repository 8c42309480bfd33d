"""The connection to a Ray cluster: a private cluster on this machine, or a running cluster.

Ray is imported on demand.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.unfinished import TemporaryFolder

# characters, because Ray puts sockets into the folder, and the kernel limits socket paths to 107
_LONGEST_FOLDER = 31
_CONNECT_S = 10.0
_OBJECT_STORE_BYTES = 512 << 20  # results are small and fetched immediately


class Node(NamedTuple):
    """A machine of the cluster, with the CPUs and GPUs that it offers to Ray."""

    id: str
    name: str
    cpus: float
    gpus: float

    def slots(self, threads: int, gpus: float, exclusive: bool) -> int:
        """Number of workers with ``threads`` CPUs and ``gpus`` GPUs that fit; at most 1 if a worker
        needs the machine exclusively.
        """
        fit = int(self.cpus // threads)
        if gpus > 0:
            fit = min(fit, int(self.gpus / gpus + 1e-9))
        return min(fit, 1) if exclusive else fit


def load_ray() -> ModuleType:
    """The Ray package; raises :class:`InputError` if Ray is not installed."""
    # without this, Ray sends usage statistics
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        hint = "pip install 'rfdetr-repro[ray]', or leave out --workers ray"
        raise InputError(f"work on many machines needs Ray ({error})", hint=hint) from error
    # Ray would print each death on stdout; the pool reports it in one line
    ray._private.worker._worker_logs_enabled = False
    return ray


class Cluster:
    """The connection to a cluster."""

    def __init__(self, address: str | None, cpus: int) -> None:
        """Starts or joins a cluster.

        ``address``: "auto" or HOST:PORT of a running cluster; None starts a cluster with ``cpus``
        CPUs of this machine, which ends with :meth:`close`. Raises :class:`InputError` without Ray
        or a reachable cluster.
        """
        self.ray = load_ray()
        self.address = address
        self.local = address is None
        self._folder: TemporaryFolder | None = None
        self._open = False
        if self.ray.is_initialized():
            raise InputError("this process already uses Ray", hint="close the other pool first")
        if address not in (None, "auto"):
            _check_reachable(address)
        self._open = True
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if self.local:
                self._folder = TemporaryFolder(_short_place())
                options |= {
                    "num_cpus": cpus,
                    "include_dashboard": False,
                    "_temp_dir": str(self._folder.path),
                }
                with _path_for_children(), _own_signals():
                    self.ray.init(
                        address="local", object_store_memory=_OBJECT_STORE_BYTES, **options
                    )
            else:
                with _own_signals():
                    self.ray.init(address=address, **options)
        except BaseException as error:
            self.close()
            if not isinstance(
                error,
                (OSError, RuntimeError, ValueError, AssertionError, self.ray.exceptions.RayError),
            ):
                raise  # KeyboardInterrupt above all
            raise InputError(
                f"the Ray cluster cannot be joined ({first_line(error)})",
                "a local start" if self.local else f"--address {address}",
                "start one with ray start --head, run the search on a machine of it, with its "
                "token (docs/many_machines.md)",
            ) from error

    def nodes(self) -> list[Node]:
        """The machines that are alive now."""
        rows = [row for row in self.ray.nodes() if row["Alive"]]
        return [
            Node(
                row["NodeID"],
                row["NodeManagerHostname"],
                row["Resources"].get("CPU", 0),
                row["Resources"].get("GPU", 0),
            )
            for row in rows
        ]

    def close(self) -> None:
        """Disconnects from the cluster; ends a local cluster and removes its folder."""
        # closes only its own connection: after a second close, the connection could belong to
        # another pool
        if self._open:
            self._open = False
            self.ray.shutdown()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _check_reachable(address: str) -> None:
    """Raises :class:`InputError` for an unreachable address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise InputError(
            f"not a cluster address: {address}",
            hint="give auto or HOST:PORT, as ray start --head prints it",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"the Ray cluster cannot be reached ({error})",
            f"--address {address}",
            "start a cluster with: ray start --head",
        ) from error


@contextmanager
def _path_for_children() -> Iterator[None]:
    """Inside the context, child processes import from the same paths as this process."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restores the handler of SIGTERM, because Ray's own handler would end the process with another
    exit code.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _short_place() -> str:
    place = tempfile.gettempdir()
    return place if len(place) <= _LONGEST_FOLDER else "/tmp"
