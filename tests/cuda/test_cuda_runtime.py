"""Registrations and launchers of the CUDA operators on a runtime that writes down what it is asked:
the device is switched to that of the tensors, work goes to its current stream, large shared memory
is allowed before a launch, launches have the size that the call needs, and errors become errors.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cuda_builds
import pytest
from recorded_calls import DEVICE, MASK_SIZES, PATH_MAPS

pytestmark = pytest.mark.skipif(cuda_builds.CXX is None, reason="no g++")
NO_NVCC = pytest.mark.skipif(cuda_builds.NVCC is None, reason="no nvcc")
# compute capability, bytes of shared memory that a block may ask for, multiprocessors
DEVICES = {"T4": (75, 64 << 10, 40), "A10": (86, 99 << 10, 72), "H100": (90, 227 << 10, 132)}
SMALL_SHARED = 48 << 10  # bytes that every kernel may use unasked


class Launch(NamedTuple):
    blocks: int
    threads: int
    shared: int
    stream: int
    device: int
    kernel: str


def launches(events: list[str]) -> list[Launch]:
    form = r"launch blocks=(\d+) threads=(\d+) shared=(\d+) stream=(\d+) device=(\d+) (.*)"
    found = [re.fullmatch(form, event) for event in events]
    return [Launch(*map(int, match.groups()[:5]), match[6]) for match in found if match]


@pytest.fixture(
    scope="module",
    params=[
        ("g++", "H100"),
        *(
            pytest.param((compiler, device), marks=[pytest.mark.parity, NO_NVCC])
            for compiler, device in (
                ("g++", "T4"),
                ("nvcc", "T4"),
                ("nvcc", "A10"),
                ("nvcc", "H100"),
            )
        ),
    ],
    ids="-".join,
)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    compiler, device = request.param
    folder = tmp_path_factory.mktemp("recorded")
    library, runtime = cuda_builds.recorded_library(folder, compiler == "nvcc")
    program = [sys.executable, str(Path(__file__).with_name("recorded_calls.py"))]
    command = [*program, str(library), str(runtime), *map(str, DEVICES[device])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout), "most_shared": DEVICES[device][1]}


def test_on_the_device_and_its_current_stream(recorded: dict[str, Any]) -> None:
    for name, call in recorded["calls"].items():
        events = call["events"]
        assert not call["error"], (name, call["error"])
        assert events[0] == f"guard {DEVICE}" and events[-1] == "guard ends", (name, events)
        assert events.count(f"stream of device {DEVICE}") == 1, name
        work = launches(events)
        assert work and all(launch.stream == recorded["stream"] for launch in work), name
        assert all(launch.device == DEVICE for launch in work), name
        for fill in (event for event in events if event.startswith("memset ")):
            assert f" stream={recorded['stream']} device={DEVICE}" in fill, (name, fill)


def test_shared_memory_is_allowed_before_it_is_used(recorded: dict[str, Any]) -> None:
    """The runtime refuses more than 48 KiB to a kernel for which it was not asked before."""
    most = 0
    for name, call in recorded["calls"].items():
        assert not any(event.startswith("launch fails") for event in call["events"]), name
        most = max(most, *(launch.shared for launch in launches(call["events"])))
    assert SMALL_SHARED < most <= recorded["most_shared"]


@pytest.mark.parametrize("path", PATH_MAPS)
def test_a_path_that_is_asked_for_is_taken(recorded: dict[str, Any], path: str) -> None:
    """With more shared memory than a kernel may use unasked."""
    found = [call for name, call in recorded["calls"].items() if name.startswith(path)]
    assert len(found) == 6
    for call in found:
        (launch,) = launches(call["events"])
        assert f"{path}_" in launch.kernel and launch.shared > SMALL_SHARED, launch


def test_every_failure_is_an_error(recorded: dict[str, Any]) -> None:
    """A call of the runtime that fails ends the work: what comes after it is not launched, but for
    the launches of which the errors are asked for together.
    """
    tried: Counter[str] = Counter()
    refused = set()  # kernels that may not use large shared memory
    for name, call in recorded["calls"].items():
        for what, outcome in call["failing"].items():
            expected = "no current CUDA stream" if "stream" in what else "the test asked for"
            assert expected in outcome["error"], (name, what, outcome)
            events = outcome["events"]
            assert events[-1] == "guard ends", (name, what)
            kind = what.split()[0]
            after = events[events.index(f"wanted failure of {kind}") :]
            assert kind == "launch" or not launches(after), (name, what, events)
            tried[kind] += 1
            if kind == "cudaFuncSetAttribute":
                (kernel,) = (
                    launch.kernel
                    for launch in launches(call["events"])
                    if launch.shared > SMALL_SHARED
                )
                refused.add(re.search(r"(\w+)_kernel", kernel)[1])
    assert min(tried.values()) >= 3 and tried.total() > 100, tried
    assert {"launch", "stream", "cudaMemsetAsync", "cudaGetDevice"} <= set(tried)
    assert {"cudaDeviceGetAttribute", "cudaFuncSetAttribute"} <= set(tried)
    assert {"staged_forward", "sorted_backward", "phased"} <= refused


def test_a_launch_has_the_size_that_the_call_needs(recorded: dict[str, Any]) -> None:
    """Around 2^31 and beyond, as far as no memory reaches: nothing is cut off to 32 bits."""
    for name, outcome in recorded["sizes"].items():
        failed = any(event.startswith("launch fails") for event in outcome["events"])
        assert not failed and not outcome["error"], (name, outcome)
        assert launches(outcome["events"]) or outcome["code"] != 0, name
    for size, (count, _, height, width) in MASK_SIZES.items():
        for packed in (0, 1):
            outcome = recorded["sizes"][f"masks {size} {packed}"]
            pixels = count * height * width
            if outcome["code"]:
                assert pixels > 2**45 and not outcome["events"]
                continue
            (launch,) = launches(outcome["events"])
            # a thread has at most 64 rows of 8 pixels
            assert launch.blocks * launch.threads * 8 * 64 >= pixels, size
            assert ("masks_kernel<int" in launch.kernel) == (pixels < 2**30), (size, launch)
    fast = re.compile(r"(?:direct|staged|sorted)_\w+_kernel")
    for name, outcome in recorded["sizes"].items():
        if name.startswith(("forward", "backward")):
            kernels = [launch.kernel for launch in launches(outcome["events"])]
            assert any(map(fast.search, kernels)) == name.endswith("usual") or not kernels, name
