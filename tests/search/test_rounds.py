"""Engines measured in rounds on simulated machines of known latencies: quiet, drifting, in bursts,
cold after a wait.
"""

from __future__ import annotations

import numpy as np
import pytest
from samples_machines import TRUE_MS, Machine, bursts

from rfdetr_repro.search.rounds import levels, measure_rounds, short_form
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

BUFFERED = Protocol(threads=1)
SUSTAINED = Protocol("sustained", buffer_ms=0.0, threads=1)


def drift(s: float) -> float:
    """Half as slow again after two minutes, as a hot notebook is."""
    return 1.0 + 0.5 * min(s, 120.0) / 120.0


def ratios_error(found_ms: np.ndarray) -> np.ndarray:
    """Relative errors of latencies up to the one factor that the state of the machine decides."""
    logs = np.log(found_ms / TRUE_MS)
    return np.abs(logs - np.median(logs))


def measured(machine: Machine, protocol: Protocol, seed: int = 0) -> np.ndarray:
    found = measure_rounds(machine.calls(), short_form(protocol), seed=seed, clock=machine.clock)
    return np.array([one.median_ms for one in found.values()])


def one_after_another(machine: Machine, samples: int) -> np.ndarray:
    """Medians of engines measured in turn, each to its end."""
    medians = []
    for call in machine.calls().values():
        ms = []
        for _ in range(samples):
            machine.clock.sleep(0.2)
            start = machine.clock.now_ns()
            call.run()
            ms.append((machine.clock.now_ns() - start) / 1e6)
        medians.append(np.median(ms))
    return np.array(medians)


def test_a_quiet_machine_is_measured_in_few_rounds() -> None:
    machine = Machine()
    found = measure_rounds(machine.calls(), short_form(BUFFERED), clock=machine.clock)
    error = np.abs(np.array([one.median_ms for one in found.values()]) / TRUE_MS - 1)
    assert np.median(error) < 0.015 and error.max() < 0.05
    first = next(iter(found.values()))
    assert (
        first.num_samples == 6
        and "6 rounds" in first.stop_reason
        and first.artifact_sha256 == "2.000"
    )
    # seconds of the machine for eighteen engines, waits of 200 ms included
    assert machine.clock.now_ns() < 35e9


@pytest.mark.parametrize("state", ["drift", "bursts", "both"])
def test_drift_and_bursts_fall_out_of_the_ratios(state: str) -> None:
    """Against the medians of engines measured one after another for as long, and against samples
    over one reference engine.
    """
    ours = []
    in_turn = []
    referred = []
    for seed in range(5):
        load = bursts(seed)
        states = {"drift": drift, "bursts": load, "both": lambda s, load=load: drift(s) * load(s)}
        machine = Machine(states[state], seed=seed)
        ours.append(np.mean(ratios_error(measured(machine, BUFFERED, seed))))
        rounds = machine.runs // len(TRUE_MS) // 2
        in_turn.append(
            np.mean(ratios_error(one_after_another(Machine(states[state], seed=seed), rounds)))
        )
        referred.append(
            np.mean(ratios_error(over_one_reference(Machine(states[state], seed=seed), rounds)))
        )
    assert np.mean(ours) < 0.025 and np.max(ours) < 0.05
    assert np.mean(ours) < 0.5 * np.mean(in_turn) and np.mean(ours) < np.mean(referred)


def over_one_reference(machine: Machine, rounds: int) -> np.ndarray:
    """Medians of each sample over the reference engine's sample of the same round."""
    rng = np.random.default_rng(0)
    calls = list(machine.calls().values())
    ms = np.zeros((len(calls), rounds))
    for number in range(rounds):
        for index in rng.permutation(len(calls)):
            calls[index].run()
            machine.clock.sleep(0.2)
            start = machine.clock.now_ns()
            calls[index].run()
            ms[index, number] = (machine.clock.now_ns() - start) / 1e6
    return np.median(ms / ms[9], axis=1) * TRUE_MS[9]


def test_a_busy_machine_is_measured_for_longer() -> None:
    quiet = Machine()
    busy = Machine(bursts(3, length_s=0.3), noise=0.1)
    few = measure_rounds(quiet.calls(), short_form(BUFFERED), clock=quiet.clock)
    many = measure_rounds(busy.calls(), short_form(BUFFERED), clock=busy.clock)
    assert next(iter(many.values())).num_samples > next(iter(few.values())).num_samples
    wide = [
        np.median([one.ci_high_ms / one.ci_low_ms for one in found.values()])
        for found in (few, many)
    ]
    assert wide[1] > wide[0]


def test_the_intervals_hold_the_truth_on_a_quiet_machine() -> None:
    inside = []
    for seed in range(20):
        machine = Machine(noise=0.04, seed=seed)
        found = measure_rounds(
            machine.calls(), short_form(BUFFERED), seed=seed, clock=machine.clock
        )
        inside += [
            one.ci_low_ms <= ms <= one.ci_high_ms
            for one, ms in zip(found.values(), TRUE_MS, strict=True)
        ]
    assert 0.8 <= np.mean(inside) <= 0.99


def test_each_mode_is_measured_as_it_is() -> None:
    """An engine that has lain idle, or whose caches another one used, is slower: buffered samples
    show it, sustained do not.
    """
    buffered, sustained = (
        measured(Machine(cold_ms=1.0, noise=0.005), protocol) for protocol in (BUFFERED, SUSTAINED)
    )
    assert buffered == pytest.approx(TRUE_MS + 1.0, rel=0.02) and sustained == pytest.approx(
        TRUE_MS, rel=0.02
    )


def test_few_engines_have_no_rounds_to_compare() -> None:
    assert levels(np.array([[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]])).ms == pytest.approx([2.0, 9.0])


def test_a_slow_engine_ends_by_time_and_says_so() -> None:
    machine = Machine()
    found = measure_rounds(
        {"slow": machine.call("slow", 4000.0)}, short_form(BUFFERED), clock=machine.clock
    )
    assert found["slow"].stop_reason.startswith("timeout after 2 rounds")


@pytest.mark.parametrize(
    "wrong", [Protocol("paced", fps=30.0), Protocol(flush_l2=True), Protocol(spin_ms=10.0)]
)
def test_other_protocols_decide_nothing(wrong: Protocol) -> None:
    with pytest.raises(InputError, match="is not possible"):
        short_form(wrong)
