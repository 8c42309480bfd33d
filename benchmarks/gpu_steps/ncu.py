"""Counters of Nsight Compute for the attention kernels: forward and backward at batch 16, 3,900
queries, in float32 and bfloat16.

The step starts itself again under ``ncu``, which writes down the sections below for each kernel of
one call; all of it goes to ``ncu.txt`` beside the Records, the figures of most interest are
printed. Where ``ncu`` is not installed or the driver denies the counters, the step is left out with
this reason, which its exit code says, too. Without a GPU the calls run without ``ncu``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from benchmarks.gpu import tool
from benchmarks.gpu_steps.operators import CASES, DTYPES, TOY, Inputs, works
from benchmarks.gpu_steps.step import Step

INSIDE = "RFDETR_INSIDE_NCU"  # set: this process is the one that is profiled
CASE = "b16-q3900-24x24"
SECTIONS = (
    *("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis", "SchedulerStats"),
    "WarpStateStats",
)
PRINTED = (
    *("Duration", "DRAM Throughput", "L1/TEX Cache Throughput", "L2 Cache Throughput"),
    *("Compute (SM) Throughput", "Block Size", "Grid Size", "Registers Per Thread"),
    *("Dynamic Shared Memory Per Block", "Waves Per SM", "Achieved Occupancy", "No Eligible"),
    *("Warp Cycles Per Issued Instruction", "L1/TEX Hit Rate", "L2 Hit Rate"),
)
DENIED = "ERR_NVGPUCTRPERM"


def calls(step: Step) -> None:
    """Each call once to warm up, then once between the marks that ncu waits for."""
    for dtype in ("float32", "bfloat16"):
        case = next(iter(TOY.values())) if step.toy else CASES[CASE]
        inputs = Inputs.of(case._replace(grid_sample=False), DTYPES[dtype], step.device)
        wanted = [works(inputs, None)[work]["ours"] for work in ("forward", "backward")]
        for call in wanted:
            call()
        if step.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        for call in wanted:
            call()
        if step.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


def figures(text: str) -> list[str]:
    """The names of the kernels and the figures of most interest, in ncu's own lines."""
    found = []
    for line in text.splitlines():
        words = line.strip()
        if "(" in words and "Context" in words and "Device" in words:
            found.append(words)
        elif words.startswith(PRINTED):
            found.append("  " + " ".join(words.split()))
    return found


def profiled(step: Step, ncu: str) -> None:
    """Runs this program under ncu and prints its figures. Ends the step as absent where the driver
    denies the counters.
    """
    command = [ncu, "--profile-from-start", "off", "--target-processes", "all"]
    for section in SECTIONS:
        command += ["--section", section]
    command += [sys.executable, "-m", "benchmarks.gpu_steps.ncu", *sys.argv[1:]]
    done = subprocess.run(
        command, env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, check=False
    )
    text = done.stdout + done.stderr
    step.store.path.with_name("ncu.txt").write_text(text)
    if DENIED in text:
        step.absent(f"the driver denies the counters ({DENIED})")
    lines = figures(text)
    for line in lines:
        step.say(line)
    if done.returncode != 0 or not lines:
        last = "; ".join(text.strip().splitlines()[-3:])
        step.wrong(f"ncu ended with code {done.returncode} and {len(lines)} figures: {last[:300]}")


def main() -> None:
    """Profiles, is profiled, or says why neither."""
    step = Step.of("ncu", __doc__)
    ncu = tool("ncu")
    if os.environ.get(INSIDE) or not step.on_gpu:
        calls(step)
        if not step.on_gpu:
            step.say("no GPU: the calls that ncu would see have run without it")
    elif ncu is None:
        step.absent("it is not installed")
    else:
        profiled(step, ncu)
    step.end()


if __name__ == "__main__":
    main()
