"""The device's two ceilings, measured: bytes per second of a copy from device memory to device
memory, and operations per second of a large matrix product in bfloat16, TF32 and float32.

A copy of n bytes counts 2 n: read and written. Operands are random, because products of zeros run
faster than a device can run on data.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.timing import event_ms, host_ms, samples_ms
from rfdetr_repro.records.record import Cost, Latency, ModelId
from rfdetr_repro.spec.protocol import Protocol

GIB = 2**30


def products(step: Step, side: int) -> None:
    """Times side x side x side products by precision."""
    operations = 2.0 * side**3
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        if tf32 and not step.on_gpu:
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(side, side, device=step.device, dtype=dtype) for _ in range(2))
        tell(step, f"product {side} {name}", lambda a=left, b=right: a @ b, operations=operations)
    torch.backends.cuda.matmul.allow_tf32 = False


def copies(step: Step, size: int) -> None:
    """Times the copy of ``size`` bytes."""
    source = torch.empty(size, dtype=torch.uint8, device=step.device).random_()
    target = torch.empty_like(source)
    tell(step, f"copy {size} bytes", lambda: target.copy_(source), moved=2.0 * size)


def tell(
    step: Step, name: str, call: object, *, operations: float = 0.0, moved: float = 0.0
) -> None:
    """Measures a call, appends its Record and prints the rate."""
    measure = event_ms if step.on_gpu else host_ms
    rounds = 3 if step.toy else 10
    times = samples_ms({name: call}, measure, rounds=rounds, repeats=3)[name]  # type: ignore[dict-item]
    middle = statistics.median(times)
    rate = (
        f"{operations / middle / 1e9:.1f} TFLOP/s"
        if operations
        else f"{moved / middle / 1e9:.2f} TB/s"
    )
    protocol = Protocol(
        "sustained", "device", 0.0, min_samples=len(times), max_samples=len(times), threads=1
    )
    step.record(
        ModelId("ceiling", name, weights="random"),
        Latency(middle, num_samples=len(times)),
        protocol,
        cost=Cost(flops=operations) if operations else None,
    )
    step.say(f"{name}: {middle:.4f} ms, {rate}")


def main() -> None:
    """Measures both ceilings."""
    step = Step.of("ceilings", __doc__)
    torch.manual_seed(0)
    copies(step, GIB // 64 if step.toy else 4 * GIB)
    products(step, 256 if step.toy else 8192)


if __name__ == "__main__":
    main()
