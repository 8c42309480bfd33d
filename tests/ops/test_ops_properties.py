"""Any call, on any number of threads and any instruction set of this processor, against the plain
formulation in float64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import fused_inputs, sample_inputs

from rfdetr_repro import ops

ISAS = ["sse4.1", "avx2", "avx512"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CALLS = {
    "plain": (
        ops.ms_deform_attn,
        ops.ms_deform_attn_reference,
        partial(sample_inputs, away_from_knots=True),
    ),
    "fused": (ops.ms_deform_attn_fused, ops.ms_deform_attn_fused_reference, fused_inputs),
}


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_call_agrees_with_the_reference(data: st.DataObject) -> None:
    """Values and gradients, on one to three threads."""
    op, reference, draw_inputs = CALLS[data.draw(st.sampled_from(sorted(CALLS)))]
    dtype = data.draw(st.sampled_from(sorted(TOLERANCE, key=str)))
    levels = data.draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
    )
    tops = dict(batch=3, queries=40, heads=4, points=4)
    sizes = {name: data.draw(st.integers(1, top)) for name, top in tops.items()}
    sizes["channels"] = data.draw(st.sampled_from([1, 3, 8, 16, 20, 32, 64]))
    inputs = draw_inputs(levels, dtype=dtype, seed=data.draw(st.integers(0, 99)), **sizes)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    threads = torch.get_num_threads()
    torch.set_num_threads(data.draw(st.integers(1, 3)))
    try:
        out = op(inputs[0], levels, *inputs[1:])
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        found = [out, *torch.autograd.grad(out, inputs, upstream)]
    finally:
        torch.set_num_threads(threads)
    wanted = reference(exact[0], levels, *exact[1:])
    for ours, theirs in zip(
        found, [wanted, *torch.autograd.grad(wanted, exact, upstream.double())], strict=True
    ):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max().item() <= TOLERANCE[dtype] * (
            1 + theirs.abs().max().item()
        )


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa: str) -> None:
    """The whole comparison again in a process that is told which kernels to use."""
    code = "from rfdetr_repro import ops; print(ops.build_info()['isa'])"
    environment = {**os.environ, "RFDETR_ISA": isa}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        check=True,
    )
    if done.stdout.strip() == "unknown":
        pytest.skip(f"this processor has no {isa}")
    assert done.stdout.strip() == isa
    chosen = (
        "test_values_and_gradients or test_any_call or test_many_heads or not_finite or "
        "test_nan_in_value"
    )
    files = [__file__, str(root / "tests" / "ops" / "test_ops_fused.py")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not gpu",
        *files,
        "-k",
        chosen,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    "call",
    [
        "ops.ms_deform_attn(z(1, 1, 1, 1), [(1, 1)], z(1, 1, 1, 1, 1, 2), z(1, 1, 1, 1, 1))",
        "ops.network_input(z(2, 4, 4, 3).byte(), 2, 2)",
    ],
)
def test_unknown_instruction_set_is_an_error(call: str) -> None:
    code = f"from rfdetr_repro import ops; from torch import zeros as z; {call}"
    environment = {**os.environ, "RFDETR_ISA": "mmx"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        check=False,
    )
    assert done.returncode != 0 and 'RFDETR_ISA="mmx"' in done.stderr, done.stderr
