"""A pool on a Ray cluster: nothing lost, nothing twice, whatever dies; who may take part and who
may not.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_pool import DeviceOfNode, MakeNothing, MakeSquares, OtherVersion, Square, two_machines

from rfdetr_repro.search.cluster import ray_pool
from rfdetr_repro.search.cluster.pool import LocalPool
from rfdetr_repro.search.cluster.ray_cluster import Node
from rfdetr_repro.search.cluster.ray_pool import RayPool
from rfdetr_repro.spec.errors import InputError, StatedFailure

ray = pytest.importorskip(
    "ray", reason="the many-machine pool needs ray (pip install 'rfdetr-repro[ray]')"
)
ITEMS = [Square(n) for n in range(12)]
NewPool = Callable[..., RayPool]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines(cpus=1) as cluster:
        yield cluster


@pytest.fixture
def join(cluster: Any) -> Iterator[NewPool]:
    pools: list[RayPool] = []

    def new(make: Callable, **options: Any) -> RayPool:
        pools.append(RayPool(make, address=cluster.address, **options))
        return pools[-1]

    yield new
    for pool in pools:
        pool.close()


def numbers(found: list) -> list[int]:
    return sorted(answer.number for _, answer in found)


def test_same_results_as_the_local_pool(join, tmp_path):
    make = MakeSquares(str(tmp_path), seconds=0.1, together=2)
    pool = join(make)
    found = list(pool.run(ITEMS))
    local = {item: answer.values for item, answer in LocalPool(make).run(ITEMS)}
    assert numbers(found) == [item.number for item in ITEMS]
    assert all(np.array_equal(answer.values, local[item]) for item, answer in found)
    assert len({answer.node for _, answer in found}) == 2 and {
        answer.threads for _, answer in found
    } == {"1"}
    again = list(pool.run(ITEMS[:4]))  # with the same workers, which have loaded everything already
    assert {answer.pid for _, answer in again} <= {answer.pid for _, answer in found}
    assert make.lines().count("make") == 2 + 1


def test_a_killed_worker_loses_nothing_and_nothing_comes_twice(join, tmp_path, capfd):
    make = MakeSquares(str(tmp_path), fatal=5)
    found = list(join(make).run(ITEMS))
    assert numbers(found) == [item.number for item in ITEMS]
    attempts = [line for line in make.lines() if line.startswith("5 ")]
    assert len(attempts) == 2 and attempts[0] != attempts[1] and "lost: " in capfd.readouterr().err


def test_workers_killed_from_outside_at_any_moment(join, tmp_path):
    make = MakeSquares(str(tmp_path), seconds=0.05)
    pids: set[int] = set()
    found = []
    for item, answer in join(make).run(ITEMS * 2):
        found.append((item, answer))
        if len(found) in (2, 7, 13) and answer.pid not in pids:
            os.kill(answer.pid, signal.SIGKILL)
            pids.add(answer.pid)
    assert len(pids) >= 2 and numbers(found) == sorted(item.number for item in ITEMS * 2)


def test_an_item_that_kills_every_worker_is_a_stated_failure_after_all_others(join, tmp_path):
    make = MakeSquares(str(tmp_path), fatal=0, kills=99)
    found: list = []
    with pytest.raises(
        StatedFailure, match=r"1 of 4 items lost their worker 2 times: Square\(number=0\): .+"
    ):
        for pair in join(make, retries=1).run(ITEMS[:4]):
            found.append(pair)
    assert numbers(found) == [1, 2, 3]


def test_a_stopped_worker_is_given_up_and_its_item_redone(join, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "PULSE_S", 0.2)
    monkeypatch.setattr(ray_pool, "SILENT_S", 1.0)
    make = MakeSquares(str(tmp_path), fatal=2, sign=signal.SIGSTOP)
    found = list(join(make).run(ITEMS[:6]))
    assert numbers(found) == [0, 1, 2, 3, 4, 5]
    first, second = (int(line.split()[1]) for line in make.lines() if line.startswith("2 "))
    assert [answer.pid for item, answer in found if item.number == 2] == [
        second
    ] and first != second
    with suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)


def test_what_the_work_raises_is_raised_here_and_not_retried(join, tmp_path):
    make = MakeSquares(str(tmp_path), forbidden=3)
    found = []
    pool = join(make, workers=1)
    with pytest.raises(InputError) as caught:
        for pair in pool.run(ITEMS):
            found.append(pair)
    # and the pool is still of use
    assert numbers(found) == [0, 1, 2] == numbers(list(pool.run(ITEMS[:3])))
    assert str(caught.value) == "no such number (item 3); leave it out"
    assert sum(line.startswith("3 ") for line in make.lines()) == 1


def test_another_version_is_refused_by_one_line(join, tmp_path, capfd):
    pool = join(MakeSquares(str(tmp_path)), fingerprint=OtherVersion(os.getpid()))
    with pytest.raises(InputError, match="no worker is left"):
        list(pool.run(ITEMS))
    lines = [line for line in capfd.readouterr().err.splitlines() if "refused" in line]
    assert len(lines) == 2 and all(
        f"torch 1.0 there, {pool.here.versions['torch']} here" in line for line in lines
    )


def test_workers_that_cannot_load_their_data_are_refused(join):
    with pytest.raises(InputError, match="no worker is left.*mount the shared folder"):
        list(join(MakeNothing()).run(ITEMS))


def test_exclusive_is_one_worker_per_machine_of_one_device(join, tmp_path, capfd):
    make = MakeSquares(str(tmp_path), seconds=0.15)
    pool = join(make, exclusive=True)
    found = list(pool.run(ITEMS))
    assert (
        len({answer.node for _, answer in found}) == len({answer.pid for _, answer in found}) == 2
    )
    assert ray.available_resources().get("CPU", 0) == 0  # no room for anybody else
    pool.close()
    pool = join(make, exclusive=True, fingerprint=DeviceOfNode(str(tmp_path), os.getpid()))
    found = list(pool.run(ITEMS))
    assert (
        numbers(found) == [item.number for item in ITEMS]
        and len({answer.node for _, answer in found}) == 1
    )
    assert pool.device is not None
    # whichever answers first
    taken, other = ("one (", "two (") if pool.device.startswith("one (") else ("two (", "one (")
    told = capfd.readouterr().err
    assert pool.device.startswith(taken) and f"refused: the device there is {other}" in told


def test_machines_join_and_leave_while_the_work_runs(cluster, join, tmp_path):
    make = MakeSquares(str(tmp_path), seconds=0.1)
    found = []
    nodes = []
    for item, answer in join(make).run(ITEMS * 20):
        found.append((item, answer))
        if len(found) == 2:
            nodes.append(cluster.add_node(num_cpus=1))
        if len(nodes) == 1 and answer.node == nodes[0].node_id:
            nodes.append(None)
            threading.Thread(
                target=partial(cluster.remove_node, nodes[0], allow_graceful=False)
            ).start()
    late = nodes[0].node_id
    assert len(nodes) == 2, "the late machine did no work"
    assert numbers(found) == sorted(item.number for item in ITEMS * 20) and any(
        answer.node == late for _, answer in found
    )


def test_a_cluster_without_a_gpu_says_so(join, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "PATIENCE_S", 0.0)
    with pytest.raises(
        InputError,
        match="no machine can take a worker .the cluster .+.; each needs 1 CPU.s. and 1 GPU.s.",
    ):
        list(join(MakeSquares(str(tmp_path)), gpus=1).run(ITEMS))


def test_a_local_cluster_ends_with_its_pool(tmp_path):
    ray.shutdown()
    pool = RayPool(MakeSquares(str(tmp_path), seconds=0.2), workers=2)
    folder = pool.cluster._folder.path
    results = pool.run(ITEMS)
    _, answer = next(results)
    with pytest.raises(InputError, match="already uses Ray"):
        RayPool(MakeSquares(str(tmp_path)))
    results.close()  # stop: the items at work are given up
    pool.close()
    pool.close()
    deadline = time.monotonic() + 120  # at most
    while Path(f"/proc/{answer.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (
        not folder.exists()
        and not Path(f"/proc/{answer.pid}").exists()
        and not ray.is_initialized()
    )


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    ray.shutdown()
    with pytest.raises(InputError, match="Ray cluster cannot be reached"):
        RayPool(MakeSquares(str(tmp_path)), address="127.0.0.1:1")


@pytest.mark.parametrize(
    ("node", "threads", "gpus", "exclusive", "slots"),
    [
        (Node("", "", 8, 0), 1, 0, False, 8),
        (Node("", "", 8, 0), 3, 0, False, 2),
        (Node("", "", 8, 2), 1, 1, False, 2),
        (Node("", "", 8, 2), 1, 0.25, False, 8),
        (Node("", "", 8, 2), 1, 1, True, 1),
        (Node("", "", 8, 0), 1, 1, True, 0),
        (Node("", "", 0, 0), 1, 0, True, 0),
    ],
)
def test_slots(node, threads, gpus, exclusive, slots):
    assert node.slots(threads, gpus, exclusive) == slots
