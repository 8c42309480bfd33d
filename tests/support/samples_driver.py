"""Builds sanitized_kernels.cpp, the program that runs every kernel on random calls, with a compiler
and flags of choice.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# what the program prints when all kernels agree: every kernel of CUDA runs, but for the four of
# masks with 64-bit indices
RESULT = "124 calls, 79 kernels"
PLAIN = (
    "-std=c++20 -w -fopenmp-simd -fno-trapping-math -fno-math-errno -DRFDETR_KERNELS=kernels_tested"
)


def failure(command: list[str]) -> str:
    """The output of a compiler that failed; empty if it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or f"exit code {done.returncode}") if done.returncode else ""


def build_driver(
    folder: Path, compiler: str, flags: str, isa_flags: str = "", link: str = ""
) -> Path:
    """The program in ``folder``; ``isa_flags`` are for the CPU kernels of the instruction set that
    runs, ``link`` for linking.
    """
    known = ["-include", str(folder / "kernels.h")]
    header = (
        f'#include "{ROOT}/csrc/cpu/isa.h"\nnamespace rfdetr {{ extern const IsaKernels '
        f"kernels_tested; }}\n"
    )
    (folder / "kernels.h").write_text(header)
    common = [compiler, *PLAIN.split(), *flags.split()]
    isa_source = ROOT / "csrc/cpu/ms_deform_attn_isa.cpp"
    main = ROOT / "tests/ops/sanitized_kernels.cpp"
    declared = '-DRFDETR_ISA_NAME="tested"'
    objects = [folder / "isa.o", folder / "main.o"]
    commands = [
        [
            *common,
            *isa_flags.split(),
            declared,
            *known,
            "-c",
            str(isa_source),
            "-o",
            str(objects[0]),
        ],
        [*common, *known, "-c", str(main), "-o", str(objects[1])],
    ]
    shim = ["-include", str(ROOT / "tests/ops/cuda_host_shim.h"), "-x", "c++"]
    for kernel in ("ms_deform_attn", "ms_deform_attn_backward", "masks"):
        objects.append(folder / f"{kernel}.o")
        commands.append(
            [*common, *shim, "-c", str(ROOT / f"csrc/cuda/{kernel}.cu"), "-o", str(objects[-1])]
        )
    with ThreadPoolExecutor(2) as pool:
        output = "\n".join(pool.map(failure, commands)).strip()
    assert not output, output
    program = folder / "kernels"
    output = failure([*common, *link.split(), *map(str, objects), "-o", str(program)])
    assert not output, output
    return program
