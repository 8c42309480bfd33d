"""The faults for the CUDA sources still fit these, which is seen without a compiler: a fault that
does not is one that no run of them tries.
"""

from __future__ import annotations

from collections import Counter

import cuda_builds
import pytest
from fault import Fault
from faults import FAULTS, TESTS


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_fits_the_sources(fault: Fault) -> None:
    text = (cuda_builds.ROOT / "csrc" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == fault.times, f"{fault.old!r} in {fault.file}"
    assert fault.new != fault.old and set(fault.found_by) <= set(TESTS) and fault.found_by


def test_faults_have_different_names() -> None:
    """A run of some faults chooses them by name."""
    counts = Counter(fault.name for fault in FAULTS)
    assert not [name for name, count in counts.items() if count > 1]


def test_the_page_counts_the_faults() -> None:
    page = cuda_builds.ROOT / "docs" / "method" / "kernels.md"
    assert f"puts {len(FAULTS)} faults into the sources" in page.read_text(encoding="utf-8")
