"""What the measurements depend on: device, driver, library, packages, and NVML's counters.

The counters are read before anything is measured, and NVML is asked for every reading that the
watch of a latency needs; what a driver denies is printed as it says so.
"""

from __future__ import annotations

import json

import torch

from benchmarks.gpu_steps.step import Step
from rfdetr_repro.bench.machine import environment
from rfdetr_repro.ops import build_info


def device(step: Step) -> None:
    """Properties of the CUDA device."""
    if not step.on_gpu:
        step.say("device: none")
        return
    found = torch.cuda.get_device_properties(step.device)
    step.say(
        f"device: {found.name}, compute capability {found.major}.{found.minor}, "
        f"{found.multi_processor_count} multiprocessors, {found.total_memory / 2**30:.0f} GiB, "
        f"L2 {found.L2_cache_size / 2**20:.0f} MiB"
    )


def counters(step: Step) -> None:
    """NVML's own words on clocks, power and causes of throttling."""
    try:
        import pynvml
    except ImportError:
        step.say("NVML: nvidia-ml-py is not installed")
        return
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError as error:
        step.say(f"NVML: {error}")
        return
    readings = {
        "SM clock MHz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory clock MHz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power W": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "temperature C": lambda: pynvml.nvmlDeviceGetTemperature(
            handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        "reasons for the clock": lambda: hex(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        "programs": lambda: [
            process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ],
    }
    for name, read in readings.items():
        try:
            step.say(f"NVML {name}: {read()}")
        except pynvml.NVMLError as error:
            step.say(f"NVML {name}: {error}")


def main() -> None:
    """Prints all of it."""
    step = Step.of("environment", __doc__)
    step.say(f"machine: {step.machine}")
    device(step)
    step.say(f"library: {json.dumps(build_info())}")
    step.say(f"packages: {json.dumps(environment())}")
    counters(step)


if __name__ == "__main__":
    main()
