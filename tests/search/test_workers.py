"""The ledger of items, the handshake's comparison, and the pool of this process."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from samples_pool import MakeNothing, MakeSquares, Square

from rfdetr_repro.search.cluster.pool import Ledger, LocalPool, Ticket, fingerprint_here
from rfdetr_repro.spec.errors import InputError


def test_local_pool_works_in_order_and_makes_once(tmp_path):
    make = MakeSquares(str(tmp_path), seconds=0)
    pool = LocalPool(make)
    assert not list(tmp_path.iterdir())  # nothing is loaded before there is work
    items = [Square(n) for n in (3, 1, 2)]
    found = [*pool.run(items), *pool.run([Square(7)])]
    assert [item for item, _ in found] == [*items, Square(7)]
    assert all(
        np.array_equal(answer.values, np.arange(3) * item.number**2) for item, answer in found
    )
    assert make.lines().count("make") == 1
    pool.close()


def test_local_pool_does_no_more_than_is_asked_for(tmp_path):
    make = MakeSquares(str(tmp_path), seconds=0)
    results = LocalPool(make).run([Square(n) for n in range(5)])
    next(results)
    results.close()
    assert len(make.lines()) == 2


def test_local_pool_raises_what_the_work_raises(tmp_path):
    with pytest.raises(InputError, match="no such number .item 1.; leave it out"):
        list(
            LocalPool(MakeSquares(str(tmp_path), seconds=0, forbidden=1)).run(
                [Square(0), Square(1)]
            )
        )
    with pytest.raises(InputError, match="mount the shared folder"):
        list(LocalPool(MakeNothing()).run([Square(0)]))


def test_a_ledger_hands_out_each_item_once():
    ledger = Ledger(3, retries=2)
    tickets = [ledger.take() for _ in range(3)]
    assert (
        [ticket.item for ticket in tickets] == [0, 1, 2]
        and ledger.take() is None
        and ledger.open == 3
    )
    assert all(ledger.done(ticket) for ticket in tickets) and ledger.open == 0


def test_a_late_result_of_a_lost_worker_is_dropped():
    ledger = Ledger(2, retries=2)
    first = ledger.take()
    ledger.lost(first, "machine gone")
    again = ledger.take()
    assert again == Ticket(first.item, 2)  # next in line, before the item that never ran
    assert not ledger.done(first) and ledger.open == 2
    assert ledger.done(again) and not ledger.done(again) and not ledger.done(first)
    ledger.lost(first, "told twice")
    ledger.lost(again, "told after its result")
    assert ledger.open == 1 and not ledger.failures


@pytest.mark.parametrize("retries", [0, 2])
def test_an_item_fails_after_its_retries(retries):
    ledger = Ledger(1, retries)
    for attempt in range(retries + 1):
        assert ledger.open == 1
        ledger.lost(ledger.take(), f"reason {attempt}")
    assert (
        ledger.open == 0 and ledger.failures == {0: f"reason {retries}"} and ledger.take() is None
    )


def test_fingerprints_name_both_versions():
    here = fingerprint_here()
    assert here.differences(here) == "" and {"python", "torch", "source"} <= set(here.versions)
    there = replace(here, versions={**here.versions, "torch": "1.0"})
    assert there.differences(here) == f"torch 1.0 there, {here.versions['torch']} here"
    without = replace(
        here, versions={name: v for name, v in here.versions.items() if name != "torch"}
    )
    assert "torch absent there" in without.differences(here)


def test_the_device_of_a_latency_is_the_gpu_or_the_processor():
    machine = replace(fingerprint_here().machine, gpu="T4", driver="550")
    print_ = replace(fingerprint_here(), machine=machine)
    assert print_.device(gpu=True) == "T4 (driver 550)"
    assert print_.device(gpu=False) == f"{machine.cpu} ({machine.cores} cores)"


def test_without_ray_the_other_pool_says_how_to_get_it(monkeypatch, tmp_path):
    from rfdetr_repro.search.cluster.ray_pool import RayPool

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError, match=r"work on many machines needs Ray .+pip install 'rfdetr-repro\[ray\]'"
    ):
        RayPool(MakeSquares(str(tmp_path)))
