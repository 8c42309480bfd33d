"""How near the float32 network comes to the time of its products alone, on one thread of a CPU.

    python -m benchmarks.studies.float32_floor [--size nano] [--rounds 15] [--matrix-unit] \
        [--onnx] [--training]

The *floor* is the CPU time of the network's products and nothing else: each in its own shape, with
operands of its own, into a buffer that exists, one after another in the order of the network. A
convolution counts as the product that it is, attention as its two products per head. Each shape is
computed by the fastest of three ways: ``mm`` with the weight as it is stored, ``mm`` with the
weight transposed beforehand, and this package's packed product. The floor, the network, the
network by PyTorch's operators alone (``plain``) and one large product take turns; shares are ratios
of medians of CPU time with 95 % intervals. The last lines state what lies above the floor, operator
by operator: the best time of the operator minus that of the products in it.

``--onnx`` adds the exported file on ONNX Runtime; ``--training`` a training step, whose floor is
its number of operations at the rate of the large product. To limit a processor with AVX-512 to
AVX2, set ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2
RFDETR_ISA=avx2 (ONNX Runtime has no such switch). The AMX unit is not used without
``--matrix-unit``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pace
from benchmarks.ratios import ratio, turns_ms
from rfdetr_repro.bench.machine import cpu_model
from rfdetr_repro.bench.models import model_artifact
from rfdetr_repro.bench.scopes import timed_call
from rfdetr_repro.model import linear
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops import build_info, packed_linear, packed_linear_pack
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import preset

LARGE = 1536  # rows, inputs and outputs of the large product
Call = Callable[[], object]


class Product(NamedTuple):
    """``count`` products of (rows, inputs) by (inputs, outputs)."""

    count: int
    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.rows * self.inputs * self.outputs


class Row(NamedTuple):
    """One operator of a call."""

    name: str
    products: tuple[Product, ...]
    ms: float  # CPU time


def products_of(name: str, args: Sequence[Any], result: Any) -> tuple[Product, ...]:
    """The products in one call of the operator ``name`` of ATen, or of this package's products."""
    if name == "linear":
        x, weight = args[:2]
        return (Product(1, x.numel() // x.shape[-1], x.shape[-1], weight.shape[0]),)
    if name in ("packed_linear", "split_linear"):
        return (Product(1, *args[0].shape, args[2].shape[0]),)
    if name == "conv2d":
        weight = args[1]
        if weight.shape[1] * 2 <= args[0].shape[1]:
            return ()  # depthwise: no product
        pixels = result.shape[0] * result.shape[2] * result.shape[3]
        return (Product(1, pixels, weight[0].numel(), weight.shape[0]),)
    if name == "scaled_dot_product_attention":
        query, key = args[:2]
        batch, heads, rows, width = query.shape
        keys = key.shape[2]
        return (
            Product(batch * heads, rows, width, keys),
            Product(batch * heads, rows, keys, width),
        )
    return ()


class Clock(TorchDispatchMode):
    """Notes each operator's products and CPU time."""

    def __init__(self) -> None:
        """Without rows."""
        super().__init__()
        self.rows: list[Row] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        started = time.process_time()
        result = func(*args, **(kwargs or {}))
        spent = 1e3 * (time.process_time() - started)
        name = str(func.overloadpacket).rpartition(".")[2]
        self.rows.append(Row(name, products_of(name, args, result), spent))
        return result


def rows_of(call: Call, repeats: int) -> list[Row]:
    """The operators of ``call`` in order, each with its best CPU time."""
    best: list[Row] = []
    for _ in range(repeats):
        with Clock() as clock:
            call()
        best = [
            row._replace(ms=min(row.ms, before.ms))
            for row, before in zip(clock.rows, best or clock.rows, strict=True)
        ]
    return best


def best_ms(call: Call, repeats: int = 7) -> float:
    """Best CPU time in ms."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - started))
    return min(times)


def ways(product: Product) -> dict[str, Call]:
    """The ways to compute the product, with operands of its own."""
    count, rows, inputs, outputs = product
    if count > 1:
        batch = (torch.randn(count, rows, inputs), torch.randn(count, outputs, inputs).mT)
        return {"bmm": partial(torch.bmm, *batch, out=torch.empty(count, rows, outputs))}
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    into = torch.empty(rows, outputs)
    packed, bias = packed_linear_pack(weight), torch.zeros(outputs)
    return {
        "mm": partial(torch.mm, x, weight.t(), out=into),
        "mm, transposed": partial(torch.mm, x, weight.t().contiguous(), out=into),
        "packed": partial(packed_linear, x, packed, bias),
    }


class Floor:
    """The products of a call, each by the fastest way of its shape."""

    def __init__(self, products: Sequence[Product]) -> None:
        """Finds the fastest way of each shape, and draws operands for all ``products``."""
        self.ms: dict[Product, float] = {}  # alone, best
        self.way: dict[Product, str] = {}
        for one in dict.fromkeys(products):
            times = {name: best_ms(call) for name, call in ways(one).items()}
            self.way[one] = min(times, key=lambda name: times[name])
            self.ms[one] = min(times.values())
        self._calls = [ways(one)[self.way[one]] for one in products]
        self.flops = sum(one.flops for one in products)

    def __call__(self) -> None:
        """Computes all products."""
        for call in self._calls:
            call()


def above(rows: Sequence[Row], floor: Floor) -> dict[str, tuple[int, float, float]]:
    """Per operator: calls, ms, and ms above the products in them; most first."""
    found: dict[str, tuple[int, float, float]] = {}
    for row in rows:
        count, ms, more = found.get(row.name, (0, 0.0, 0.0))
        alone = sum(floor.ms.get(one, 0.0) for one in row.products)
        found[row.name] = (count + 1, ms + row.ms, more + row.ms - alone)
    return dict(sorted(found.items(), key=lambda item: -item[1][2]))


@contextmanager
def without_unit(allowed: bool) -> Iterator[None]:
    """Keeps linear layers from the AMX unit unless ``allowed``."""
    with mock.patch.object(linear, "HAS_SPLIT_LINEAR", linear.HAS_SPLIT_LINEAR and allowed):
        yield


def network(size: str) -> tuple[Call, Call]:
    """The forward pass of one image with random weights, and the same by PyTorch's operators."""
    row = preset(size)
    torch.manual_seed(0)
    detector = Detector(row.model, row.arch).eval().slice(row.arch)
    images = torch.randn(1, 3, *row.arch.input_hw)

    def plain() -> object:
        with linear.plain_linear():
            return detector(images)

    return partial(detector, images), plain


def onnx_call(size: str, folder: Path) -> Call:
    """One run of the exported float32 file on ONNX Runtime, one thread."""
    session = open_session(model_artifact(f"rfdetr-{size}", folder), "onnxruntime", threads=1)
    return timed_call(session, "engine", None)


def training_step(size: str, folder: Path, batch: int) -> Call:
    """One step of ``batch`` made-up images."""
    split = pace.write_pictures(folder / "data", batch)
    trainer = pace.trainer_for(
        split, folder / "run", torch.device("cpu"), size=size, batch=batch, precision="float32"
    )
    batches = next(pace.batches_of(trainer, pace.MADE_UP))
    return partial(trainer.train_step, batches)


def print_share(name: str, times: dict[str, Any], flops: int) -> None:
    """One line: median, rate, share of the floor."""
    median = float(np.median(times[name]))
    found = ratio(times["floor"], times[name])
    print(
        f"{name:8} {median:8.1f} ms {flops / median / 1e6:7.1f} GFLOP/s   share of the floor "
        f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints floor, network, shares, and what lies above the floor."""
    parser = argparse.ArgumentParser("benchmarks.studies.float32_floor", description=__doc__)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--matrix-unit", action="store_true")
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--batch", type=int, default=2, help="images of a training step")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(
        f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}, kernels {build_info()['isa']}"
    )
    with tempfile.TemporaryDirectory() as folder, without_unit(args.matrix_unit):
        _inference(args, Path(folder))
        if args.training:
            _training(args, Path(folder))


def _inference(args: argparse.Namespace, folder: Path) -> None:
    forward, plain = network(args.size)
    with torch.inference_mode():
        _compare(args, forward, plain, folder)


def _compare(args: argparse.Namespace, forward: Call, plain: Call, folder: Path) -> None:
    floor = Floor([one for row in rows_of(plain, 1) for one in row.products])
    large = min(ways(Product(1, LARGE, LARGE, LARGE)).values(), key=best_ms)
    calls: dict[str, Call] = {"floor": floor, "network": forward, "plain": plain, "large": large}
    if args.onnx:
        calls["onnx"] = onnx_call(args.size, folder)
    times = turns_ms(calls, args.rounds, clock=time.process_time)
    print(f"{args.size}: {floor.flops / 1e9:.2f} GFLOP in {len(floor._calls)} products")
    rate = 2 * LARGE**3 / float(np.median(times["large"])) / 1e6
    print(f"one product of {LARGE} x {LARGE} x {LARGE}: {rate:.1f} GFLOP/s")
    for name in (name for name in calls if name != "large"):
        print_share(name, times, floor.flops)
    for one, way in floor.way.items():
        rate = one.flops / floor.ms[one] / 1e6
        print(f"  {one.count:3} x {one.rows} x {one.inputs} x {one.outputs}: {way} {rate:.1f}")
    for name, call in (("network", forward), ("plain", plain)):
        print(f"{name}, above the floor, by operator (calls, ms, ms above):")
        for operator, (count, ms, more) in list(above(rows_of(call, 5), floor).items())[:14]:
            print(f"  {operator:32} {count:4} {ms:8.2f} {more:8.2f}")


def _training(args: argparse.Namespace, folder: Path) -> None:
    step = training_step(args.size, folder, args.batch)
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    large = min(ways(Product(1, LARGE, LARGE, LARGE)).values(), key=best_ms)
    times = turns_ms({"large": large, "step": step}, max(3, args.rounds // 3), each=2)
    times["floor"] = times["large"] * (flops / (2 * LARGE**3))
    print(f"training step of {args.batch} images: {flops / 1e9:.1f} GFLOP counted by PyTorch")
    print_share("step", times, flops)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
