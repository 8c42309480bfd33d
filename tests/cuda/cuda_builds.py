"""Builds of the CUDA sources that need no GPU: for threads of the operating system under
ThreadSanitizer, and for a runtime that only writes down what it is asked.

Objects are kept in the folder that RFDETR_PROOF_CACHE names, if it is set, by what they are made
of, so that a change of one source compiles that source alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "csrc" / "cuda"
KERNELS = tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))
REGISTRATIONS = ("ms_deform_attn.cpp", "masks.cpp", "cuda/ms_deform_attn.cpp", "cuda/masks.cpp")
CXX = shutil.which("g++")
NVCC = shutil.which("nvcc") or next(
    (str(path) for path in [Path("/usr/local/cuda/bin/nvcc")] if path.is_file()), None
)
THREADS = "-std=c++20 -O0 -g -w -fsanitize=thread"
# another namespace than the installed operators'
RECORDED = "-fPIC -Drfdetr=rfdetr_proof"


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A compiler's run; raises with its messages when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return done


def contents(path: Path, seen: set[Path]) -> bytes:
    """A source and the headers beside it that it includes, and theirs."""
    if path in seen or not path.is_file():
        return b""
    seen.add(path)
    text = path.read_bytes()
    included = re.findall(rb'^#include "([^"]+)"', text, re.M)
    parts = [contents((path.parent / name.decode()).resolve(), seen) for name in included]
    return b"\0".join([text, *parts])


def compiled(command: list[str], source: Path, folder: Path) -> Path:
    """The object of a source; ``command`` is the compiler with its flags."""
    first = [Path(word) for word in command if word.endswith(".h")]
    seen: set[Path] = set()
    text = b"\0".join(contents(path, seen) for path in (*first, source))
    made_of = " ".join(command).replace(str(ROOT), "").encode() + text
    name = f"{source.stem}-{hashlib.sha256(made_of).hexdigest()[:20]}.o"
    target = Path(os.environ.get("RFDETR_PROOF_CACHE") or folder) / name
    if not target.is_file():
        part = target.with_suffix(f".{os.getpid()}.part")
        run([*command, "-c", str(source), "-o", str(part)])
        part.replace(target)
    return target


def thread_cases(folder: Path) -> Path:
    """The program that runs the kernels with an own thread for each CUDA thread."""
    assert CXX is not None
    flags = [CXX, *THREADS.split()]
    kernel = [*flags, "-include", str(HERE / "threads.h"), "-x", "c++"]
    objects = [compiled(kernel, SOURCES / f"{name}.cu", folder) for name in KERNELS]
    objects.append(compiled(flags, HERE / "thread_cases.cpp", folder))
    program = folder / "thread_cases"
    run([CXX, "-fsanitize=thread", *map(str, objects), "-o", str(program)])
    return program


def torch_folder() -> Path:
    """Where PyTorch is installed."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def recorded_library(folder: Path, by_nvcc: bool) -> tuple[Path, Path]:
    """The registrations and launchers on the runtime of fake_runtime.cpp: that library, and the
    runtime. nvcc makes what a user's build makes, but for the device code; g++ serves without it.
    """
    assert CXX is not None
    plain = [CXX, "-std=c++20", "-O0", "-w", *RECORDED.split()]
    against_torch = [
        *plain,
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        *("-isystem", str(torch_folder() / "include")),
    ]
    objects = [compiled(against_torch, ROOT / "csrc" / name, folder) for name in REGISTRATIONS]
    if by_nvcc:
        assert NVCC is not None
        architecture = ["-arch=compute_90", "-code=compute_90"]
        kernel = [NVCC, "-std=c++17", "-O1", *architecture, "-Xcompiler", *RECORDED.split()]
    else:
        kernel = [*plain, "-include", str(HERE / "recorded.h"), "-x", "c++"]
    objects += [compiled(kernel, SOURCES / f"{name}.cu", folder) for name in KERNELS]
    runtime = folder / "libproof_runtime.so"
    run([CXX, "-std=c++20", "-fPIC", "-shared", str(HERE / "fake_runtime.cpp"), "-o", str(runtime)])
    library = folder / "libproof_operators.so"
    torch_lib = str(torch_folder() / "lib")
    order = [f"-Wl,-rpath,{folder}", str(runtime), f"-L{torch_lib}", "-ltorch_cpu"]
    run([CXX, "-shared", "-o", str(library), *map(str, objects), *order])
    return library, runtime
