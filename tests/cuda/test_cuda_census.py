"""The machine code of every CUDA kernel has the barriers, atomics and vector loads that it should
have, and fast kernels no loops of compare-and-swap and no calls of 64-bit division.
"""

from __future__ import annotations

from pathlib import Path

import cuda_builds
import cuda_census
import pytest

COUNTS = tuple(kind for kind in cuda_census.KINDS if kind != "instructions")
# Kernels that a model's own sizes reach; the others are for what does not fit 32 bits or 16 bytes.
FAST = (
    "masks_kernel<int",
    "direct_forward_kernel<",
    "staged_forward_kernel<",
    "direct_backward_kernel<",
    "sorted_backward_kernel<",
)
A_FEW_BYTES = 32  # of registers that do not fit, read back included
BARRIERS = {"staged_forward_kernel": 1, "sorted_backward_kernel": 7, "phased_kernel": 2}
PARTS = [
    pytest.param(
        source,
        architecture,
        marks=() if (source, architecture) == ("masks", "90") else pytest.mark.parity,
    )
    for source in cuda_builds.KERNELS
    for architecture in cuda_census.ARCHITECTURES
]


@pytest.mark.skipif(bool(cuda_census.missing()), reason=cuda_census.missing())
@pytest.mark.parametrize(("source", "architecture"), PARTS)
def test_machine_code_is_as_in_the_table(source: str, architecture: str, tmp_path: Path) -> None:
    """With the table's nvcc the counts are equal, with another the kinds of instructions are."""
    release, _, rows = cuda_census.table()
    same = cuda_census.nvcc_version() == release
    found = cuda_census.census(source, architecture, tmp_path)
    wanted = [row for key, row in rows.items() if key[0] == source and key[2] == architecture]
    assert [row["kernel"] for row in found] == [row["kernel"] for row in wanted]
    for ours, expected in zip(found, wanted, strict=True):
        counts = {kind: ours[kind] if same else bool(ours[kind]) for kind in COUNTS}
        assert counts == {
            kind: expected[kind] if same else bool(expected[kind]) for kind in COUNTS
        }, ours["kernel"]
        if same:
            assert ours["registers"] <= expected["registers"], ours["kernel"]
            assert ours["spilled_bytes"] <= expected["spilled_bytes"], ours["kernel"]


def test_the_table_is_of_these_sources() -> None:
    _, digest, _ = cuda_census.table()
    assert digest == cuda_census.digest_of_sources(), (
        "census.csv is of other sources: run python tests/cuda/cuda_census.py, which needs nvcc "
        "and nvidia-cuda-nvdisasm, and look at what has changed"
    )


def test_fast_kernels_of_the_table_are_fast() -> None:
    """No call of a 64-bit division, hardly a spilled register, and no addition by compare-and-swap,
    as float additions in shared memory are.
    """
    *_, rows = cuda_census.table()
    fast = [row for row in rows.values() if str(row["kernel"]).startswith(FAST)]
    names = {name.split("<")[0] for name in FAST}
    assert {row["kernel"].split("<")[0] for row in fast} == names
    for row in fast:
        assert row["divisions_64"] == 0 and row["spilled_bytes"] <= A_FEW_BYTES, row
        assert row["spins"] == 0, row


def test_barriers_and_wide_accesses_of_the_table() -> None:
    """Barriers stand only in kernels with shared memory; values are read 16 bytes at once wherever
    a kernel takes packs, and added so from sm_90 on.
    """
    *_, rows = cuda_census.table()
    for (_, kernel, architecture), row in rows.items():
        name, _, arguments = kernel.partition("<")
        assert row["barriers"] == BARRIERS.get(name, 0), row
        if name in ("direct_forward_kernel", "staged_forward_kernel"):
            assert row["loads_16_bytes"] > 0 and row["stores_16_bytes"] > 0, row
        if name == "forward_kernel":
            assert (row["loads_16_bytes"] > 0) == (not arguments.endswith(" 1>")), row
        if name in ("direct_backward_kernel", "sorted_backward_kernel"):
            wide = int(architecture) >= 90
            assert (row["wide_adds"] > 0) == wide and row["global_adds"] > 0, row


def test_the_table_has_every_kernel_and_architecture() -> None:
    *_, rows = cuda_census.table()
    kernels = {key[:2] for key in rows}
    assert set(rows) == {
        (*kernel, architecture) for kernel in kernels for architecture in cuda_census.ARCHITECTURES
    }
    assert {source for source, _ in kernels} == set(cuda_builds.KERNELS)


def test_pixels_of_masks_are_stored_eight_at_once() -> None:
    *_, rows = cuda_census.table()
    for (source, kernel, _), row in rows.items():
        if source == "masks":
            packed = kernel.split(", ")[1] == "true"
            assert (row["stores_8_bytes"] > 0) != packed, kernel


def test_masks_have_no_fused_products() -> None:
    """A product and a sum that are rounded once would give other bits than the CPU's masks."""
    *_, rows = cuda_census.table()
    found = [row for (source, _, _), row in rows.items() if source == "masks"]
    assert found and not any(row["fused_products"] for row in found)
