"""Builds the compiled operators into rfdetr_repro/librfdetr_ops.so with ninja.

``pip install --no-build-isolation -e .`` or, when only the sources changed, ``python setup.py build_ext --inplace``.
CUDA kernels are compiled in when nvcc is found (CUDA_HOME, PATH or /usr/local/cuda), with PyTorch built for CUDA or not: the
library links the CUDA runtime statically and PyTorch's stable ABI only. RFDETR_CUDA=0 leaves them out, RFDETR_CUDA=1 insists;
RFDETR_CUDA_ARCHS="80 90" picks the architectures. PyTorch is located, never imported, so a build with nothing to do is quick.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "ops"
LIBRARY = "librfdetr_ops.so"
CUDA_ARCHS = "75 80 86 89 90"
TARGET_TORCH = "0x020a000000000000"  # 2.10, the oldest stable ABI the library uses
CUDA_FLAGS = "-std=c++17 -O3 --threads 0 -Xcompiler -fPIC,-fvisibility=hidden"
CXX_FLAGS = "-std=c++20 -O3 -fPIC -fvisibility=hidden -fopenmp-simd -fno-trapping-math -fno-math-errno -Wall -Wextra"


def torch_root() -> Path:
    """Folder of the installed PyTorch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: building rfdetr_repro needs torch; install torch>=2.10, then: pip install --no-build-isolation -e .")
    return Path(spec.submodule_search_locations[0])


def find_nvcc() -> str | None:
    """Path of nvcc, or None for a CPU-only build."""
    wish = os.environ.get("RFDETR_CUDA", "")
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    paths = [Path(home, "bin/nvcc") for home in homes if home]
    found = next((str(path) for path in paths if path.is_file()), shutil.which("nvcc"))
    if wish == "1" and not found:
        sys.exit("error: RFDETR_CUDA=1 but there is no nvcc; set CUDA_HOME or put nvcc on PATH")
    return None if wish == "0" else found


def gencode(archs: list[str]) -> str:
    """nvcc flags for machine code of every architecture, and PTX of the newest for later GPUs.

    Architectures of one generation (sm_80, sm_86, sm_89) share the PTX of its first, which saves a front-end run each.
    """
    first = {arch[:-1]: arch for arch in reversed(archs)}
    codes = [f"-gencode arch=compute_{first[arch[:-1]]},code=sm_{arch}" for arch in archs]
    return " ".join([*codes, f"-gencode arch=compute_{archs[-1]},code=compute_{archs[-1]}"])


def ninja_escape(path: object) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja_file(nvcc: str | None, archs: list[str]) -> str:
    """The build description: one object per source, one library."""
    torch, sources = torch_root(), ["csrc/ms_deform_attn.cpp", "csrc/cpu/ms_deform_attn.cpp", "csrc/cpu/split_linear.cpp"]
    defines = f"-DTORCH_TARGET_VERSION={TARGET_TORCH}"
    if nvcc:
        sources += ["csrc/cuda/ms_deform_attn.cpp", "csrc/cuda/ms_deform_attn.cu"]
        defines += f" '-DRFDETR_CUDA_ARCHS=\"{' '.join(archs)}\"'"
    linker = f"{nvcc} -shared -cudart static -Xlinker --no-undefined" if nvcc else "$cxx -shared -Wl,--no-undefined"
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        "rule cpp",
        f"  command = $cxx {CXX_FLAGS} {defines} -isystem '{torch / 'include'}' -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = compile $in",
        "rule cuda",
        f"  command = {nvcc} {CUDA_FLAGS} {gencode(archs)} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = compile $in (CUDA)",
        f"rule link\n  command = {linker} -o $out $in -L'{torch / 'lib'}' -ltorch_cpu\n  description = link $out",
    ]
    objects = []
    for source in sources:
        objects.append(source.replace("/", "_") + ".o")
        lines.append(f"build {objects[-1]}: {'cuda' if source.endswith('.cu') else 'cpp'} {ninja_escape(ROOT / source)}")
    return "\n".join([*lines, f"build {LIBRARY}: link {' '.join(objects)}", f"default {LIBRARY}", ""])


def build_library() -> Path:
    """Brings the library up to date and returns it; ninja compiles only what changed."""
    nvcc, archs = find_nvcc(), sorted(os.environ.get("RFDETR_CUDA_ARCHS", CUDA_ARCHS).split(), key=int)
    print(f"rfdetr_repro: building CPU and CUDA kernels (sm_{', sm_'.join(archs)}, {nvcc})" if nvcc
          else "rfdetr_repro: building CPU kernels only (no nvcc, or RFDETR_CUDA=0)")  # fmt: skip
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "build.ninja").write_text(ninja_file(nvcc, archs))
    ninja = [sys.executable, "-m", "ninja"] if importlib.util.find_spec("ninja") else ["ninja"]
    try:
        subprocess.run([*ninja, "-C", str(BUILD)], check=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"error: building the compiled operators failed ({error}); see the compiler's output above")
    return BUILD / LIBRARY


def install_library(built: Path, target: Path) -> None:
    """Replaces ``target`` atomically, and only when it differs: a running process may have the old one mapped."""
    if target.is_file() and target.read_bytes() == built.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    os.close(handle)
    shutil.copy(built, part)
    os.replace(part, target)


class BuildOps(build_ext):
    """``build_ext`` whose one extension is the operator library: no Python module, so no interpreter tag in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], LIBRARY))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        install_library(build_library(), Path(self.get_ext_fullpath(ext.name)))

    def copy_extensions_to_source(self) -> None:
        install_library(BUILD / LIBRARY, ROOT / "rfdetr_repro" / LIBRARY)


class StableAbiWheel(bdist_wheel):
    """A wheel for any CPython of this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("rfdetr_repro.librfdetr_ops", sources=[])],
    cmdclass={"build_ext": BuildOps, "bdist_wheel": StableAbiWheel},
)
