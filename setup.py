"""Builds the compiled operators into rfdetr_repro/librfdetr_ops.so, and the NumPy modules _masks,
_pictures and _resampled_ap, with ninja.

``pip install --no-build-isolation -e .`` or, when only the sources changed, ``python setup.py
build_ext --inplace``. CUDA kernels are compiled in when nvcc is found (CUDA_HOME, PATH or
/usr/local/cuda), with PyTorch built for CUDA or not: the library links the CUDA runtime statically
and PyTorch's stable ABI only; the NumPy modules link neither, but are built for one CPython.
RFDETR_CUDA=0 leaves the CUDA kernels out, RFDETR_CUDA=1 insists on them, RFDETR_CUDA_ARCHS="80 90"
picks the architectures. RFDETR_TENSORRT_INCLUDE names the folder of TensorRT's headers, with which
the TensorRT plugin librfdetr_tensorrt.so is built too. PyTorch is located, never imported, so a
build with nothing to do is quick.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "ops"
MACHINE = os.uname().machine.lower()  # this one
RESULTS = ROOT / "results"  # stores of Records, which a wheel holds too
LIBRARY = "librfdetr_ops.so"
PLUGIN = "librfdetr_tensorrt.so"
# csrc/python/NAME.cpp becomes rfdetr_repro/_NAME; also linked: sources compiled per instruction set
MODULES: dict[str, tuple[str, ...]] = {
    "masks": (),
    "pictures": ("pictures_isa",),
    "resampled_ap": (),
}
MODULE_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
CUDA_SOURCES = (
    "ms_deform_attn.cpp",
    "ms_deform_attn.cu",
    "ms_deform_attn_backward.cu",
    "masks.cpp",
    "masks.cu",
)
CPU_SOURCES = ("ms_deform_attn", "split_linear", "packed_linear", "masks", "pictures")
CUDA_ARCHS = "75 80 86 89 90 100 120"
SET_ARCHS = 'set RFDETR_CUDA_ARCHS to architectures such as "80 90"'
TARGET_TORCH = "0x020a000000000000"  # 2.10, the oldest stable ABI the library uses
CUDA_FLAGS = "-std=c++17 -O3 --threads 0 -Xcompiler -fPIC,-fvisibility=hidden"
# csrc/cpu/NAME.cpp is compiled once per instruction set, chosen at run time; further flags of each
ISA_SOURCES = {
    "ms_deform_attn_isa": "",
    "packed_linear_isa": "",
    "pictures_isa": "-ffp-contract=off",
}
ISAS = {
    "sse41": ("sse4.1", "-msse4.1"),
    "avx2": ("avx2", "-mavx2 -mfma -mf16c"),
    "avx512": (
        "avx512",
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512",
    ),
}
CXX_FLAGS = (
    "-std=c++20 -O3 -fPIC -fvisibility=hidden -fopenmp-simd -fno-trapping-math -fno-math-errno "
    "-Wall -Wextra"
)


def torch_root() -> Path:
    """Folder of the installed PyTorch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(
            "error: building rfdetr_repro needs torch; install torch>=2.10, then: pip install "
            "--no-build-isolation -e ."
        )
    return Path(spec.submodule_search_locations[0])


def pybind11_headers(torch: Path) -> Path:
    """Folder of pybind11's headers, without importing it: those that the build requires; where a
    build in place has only PyTorch, PyTorch's own copy.
    """
    spec = importlib.util.find_spec("pybind11")
    if spec is None or not spec.submodule_search_locations:
        return torch / "include"
    return Path(spec.submodule_search_locations[0]) / "include"


def find_nvcc() -> str | None:
    """Path of nvcc, or None for a CPU-only build."""
    wish = os.environ.get("RFDETR_CUDA", "")
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    paths = [Path(home, "bin/nvcc") for home in homes if home]
    found = next((str(path) for path in paths if path.is_file()), shutil.which("nvcc"))
    if wish == "1" and not found:
        sys.exit("error: RFDETR_CUDA=1 but there is no nvcc; set CUDA_HOME or put nvcc on PATH")
    return None if wish == "0" else found


def tensorrt_headers() -> Path | None:
    """The folder of TensorRT's headers, or None for a build without the plugin."""
    wish = os.environ.get("RFDETR_TENSORRT_INCLUDE", "").strip()
    if not wish:
        return None
    if not Path(wish, "NvInfer.h").is_file():
        sys.exit(
            f"error: RFDETR_TENSORRT_INCLUDE={wish!r} holds no NvInfer.h; name the folder of "
            f"TensorRT's headers, or leave the variable unset"
        )
    if find_nvcc() is None:
        sys.exit(
            "error: the TensorRT plugin needs nvcc; set CUDA_HOME or put nvcc on PATH, leave "
            "RFDETR_CUDA=0 out, or leave RFDETR_TENSORRT_INCLUDE unset"
        )
    return Path(wish).resolve()


def architectures(nvcc: str | None) -> list[str]:
    """Those of RFDETR_CUDA_ARCHS, or of CUDA_ARCHS the ones that ``nvcc`` knows: an older one does
    not know the newest GPUs, and a newer one has dropped the oldest.
    """
    wish = os.environ.get("RFDETR_CUDA_ARCHS", "").strip()
    archs = (wish or CUDA_ARCHS).split()
    if not all(arch.isascii() and arch.isdigit() for arch in archs):
        sys.exit(
            f"error: RFDETR_CUDA_ARCHS={wish!r} is no list of architectures; {SET_ARCHS}, or leave "
            f"the variable unset"
        )
    archs.sort(key=int)
    if nvcc is None or wish:
        return archs
    known = known_architectures(nvcc)
    unknown = [arch for arch in archs if arch not in known]
    if len(unknown) == len(archs):
        sys.exit(
            f"error: {nvcc} knows none of the architectures {CUDA_ARCHS}, but "
            f"{' '.join(sorted(known, key=int))}; {SET_ARCHS} (the compute capability of your GPU "
            f"without the point), or RFDETR_CUDA=0 for a build without CUDA kernels"
        )
    if unknown:
        print(f"rfdetr_repro: this nvcc does not know sm_{', sm_'.join(unknown)}: left out")
    return [arch for arch in archs if arch not in unknown]


def known_architectures(nvcc: str) -> set[str]:
    """The architectures that ``nvcc`` lists; ends the program with what nvcc says where it lists
    none.
    """
    command = [nvcc, "--list-gpu-arch"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (told.stderr.strip() or told.stdout.strip() or "nothing").splitlines()[-1]
        known = {word.removeprefix("compute_") for word in told.stdout.split()}
    except OSError as error:
        said = str(error)
        known = set()
    known = {arch for arch in known if arch.isascii() and arch.isdigit()}
    if not known:
        sys.exit(
            f"error: {' '.join(command)} lists no architecture, but says: {said}; {SET_ARCHS}, or "
            f"RFDETR_CUDA=0 for a build without CUDA kernels"
        )
    return known


def gencode(archs: list[str]) -> str:
    """nvcc flags for machine code of every architecture, and PTX of the newest for later GPUs.

    Architectures of one generation (sm_80, sm_86, sm_89) share the PTX of its first, which saves a
    front-end run each.
    """
    first = {arch[:-1]: arch for arch in reversed(archs)}
    codes = [f"-gencode arch=compute_{first[arch[:-1]]},code=sm_{arch}" for arch in archs]
    return " ".join([*codes, f"-gencode arch=compute_{archs[-1]},code=compute_{archs[-1]}"])


def prefix_maps(torch: Path) -> str:
    """Compiler flags that cut folders of this machine off the paths in the library: an error names
    ``csrc/masks.cpp``, wherever the library was built.
    """
    folders = (ROOT, torch.parent, Path(sysconfig.get_path("include")))
    return " ".join(f"'-ffile-prefix-map={folder}/='" for folder in folders)


def machine() -> str:
    """The processor that is compiled for; setuptools' _PYTHON_HOST_PLATFORM, such as
    linux-aarch64, names another than this one, and CXX then names its compiler.
    """
    return sysconfig.get_platform().rsplit("-", 1)[-1].lower()


def isa_objects(source: str) -> dict[str, str]:
    """Object files of a source of ISA_SOURCES on this architecture, each with its flags."""
    x86 = machine() in ("x86_64", "amd64")
    return {
        f"csrc_cpu_{source}.{variant}.o": f"{flags} {ISA_SOURCES[source]} "
        f"-DRFDETR_KERNELS=kernels_{variant} '-DRFDETR_ISA_NAME=\"{name}\"'"
        for variant, (name, flags) in (ISAS if x86 else {"plain": ("plain", "")}).items()
    }


def ninja_escape(path: object) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja_file(nvcc: str | None, archs: list[str], namespace: str = "", libs: str = "") -> str:
    """The build description: one object per source, one library. ``namespace`` is what C++ and
    PyTorch call the operators instead of rfdetr; the NumPy modules are built without it only.
    ``libs`` is the folder of libtorch_cpu.so, where that is not PyTorch's own.
    """
    torch = torch_root()
    cxx_flags = f"{CXX_FLAGS} {prefix_maps(torch)}"
    cuda_flags = CUDA_FLAGS
    if namespace:
        cxx_flags += f" -Drfdetr={namespace}"
        cuda_flags += f" -Drfdetr={namespace}"
    sources = [
        "csrc/ms_deform_attn.cpp",
        "csrc/masks.cpp",
        *(f"csrc/cpu/{name}.cpp" for name in CPU_SOURCES),
    ]
    defines = f"-DTORCH_TARGET_VERSION={TARGET_TORCH}"
    if nvcc:
        sources += [f"csrc/cuda/{name}" for name in CUDA_SOURCES]
        defines += f" '-DRFDETR_CUDA_ARCHS=\"{' '.join(archs)}\"'"
    linker = (
        f"{nvcc} -shared -cudart static -Xlinker --no-undefined"
        if nvcc
        else "$cxx -shared"
        + (" -Wl,--no-as-needed -Wl,--allow-shlib-undefined" if libs else " -Wl,--no-undefined")
    )
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        "rule cpp",
        f"  command = $cxx {cxx_flags} {defines} $extra -isystem '{torch / 'include'}' -MD -MF "
        f"$out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = compile $in",
        "rule cuda",
        f"  command = {nvcc} {cuda_flags} {gencode(archs)} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = compile $in (CUDA)",
        f"rule link\n  command = {linker} -o $out $in -L'{libs or torch / 'lib'}' -ltorch_cpu\n  "
        f"description = link $out",
    ]
    objects = []
    for source in sources:
        objects.append(source.replace("/", "_") + ".o")
        lines.append(
            f"build {objects[-1]}: {'cuda' if source.endswith('.cu') else 'cpp'} "
            f"{ninja_escape(ROOT / source)}"
        )
    variants = {source: isa_objects(source) for source in ISA_SOURCES}
    for source, built in variants.items():
        for name, extra in built.items():
            objects.append(name)
            path = ninja_escape(ROOT / "csrc" / "cpu" / f"{source}.cpp")
            lines += [f"build {name}: cpp {path}", f"  extra = {extra}"]
    lines.append(f"build {LIBRARY}: link {' '.join(objects)}")
    if namespace:
        return "\n".join([*lines, f"default {LIBRARY}", ""])
    if headers := tensorrt_headers():
        lines += [
            f"rule plugin\n  command = {nvcc} {cuda_flags} -isystem '{headers}' -MD -MF $out.d -c "
            f"$in -o $out\n  depfile = $out.d\n  deps = gcc\n  description = compile $in",
            f"rule link_plugin\n  command = {nvcc} -shared -cudart static -Xlinker --no-undefined "
            f"-o $out $in\n  description = link $out",
            f"build csrc_tensorrt.o: plugin "
            f"{ninja_escape(ROOT / 'csrc' / 'tensorrt' / 'ms_deform_attn.cpp')}",
            f"build {PLUGIN}: link_plugin csrc_tensorrt.o csrc_cuda_ms_deform_attn.cu.o",
        ]
    lines += [
        f"rule module\n  command = $cxx {cxx_flags} -isystem '{sysconfig.get_path('include')}' "
        f"-isystem '{pybind11_headers(torch)}' -MD -MF $out.d -shared -pthread $in -o $out\n  "
        f"depfile = $out.d\n  deps = gcc\n  description = compile $in",
        *(
            f"build _{name}{MODULE_SUFFIX}: module "
            f"{ninja_escape(ROOT / 'csrc' / 'python' / f'{name}.cpp')} "
            f"{' '.join(item for source in linked for item in variants[source])}"
            for name, linked in MODULES.items()
        ),
    ]
    return "\n".join([*lines, f"default {' '.join(targets())}", ""])


def stand_in_library(folder: Path) -> str:
    """A folder with an empty libtorch_cpu.so of the processor that is compiled for: the library
    names it, and finds the functions in the real one when it is loaded.
    """
    target = folder / "stand_in"
    target.mkdir(exist_ok=True)
    source = target / "empty.cpp"
    source.write_text("")
    compiler = os.environ.get("CXX", "c++").split()
    flags = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libtorch_cpu.so"]
    subprocess.run(
        [*compiler, *flags, str(source), "-o", str(target / "libtorch_cpu.so")], check=True
    )
    return str(target)


def targets() -> list[str]:
    """Names of what is built."""
    plugin = [PLUGIN] if tensorrt_headers() else []
    return [LIBRARY, *plugin, *(f"_{name}{MODULE_SUFFIX}" for name in MODULES)]


def build(folder: Path = BUILD, namespace: str = "") -> None:
    """Brings the library, and without ``namespace`` the modules, up to date in ``folder``; ninja
    compiles only what changed.
    """
    nvcc = find_nvcc()
    archs = architectures(nvcc)
    print(
        f"rfdetr_repro: building CPU and CUDA kernels (sm_{', sm_'.join(archs)}, {nvcc})"
        if nvcc
        else "rfdetr_repro: building CPU kernels only (no nvcc, or RFDETR_CUDA=0)"
    )
    folder.mkdir(parents=True, exist_ok=True)
    libs = stand_in_library(folder) if machine() != MACHINE else ""
    (folder / "build.ninja").write_text(ninja_file(nvcc, archs, namespace, libs))
    ninja = [sys.executable, "-m", "ninja"] if importlib.util.find_spec("ninja") else ["ninja"]
    try:
        subprocess.run([*ninja, "-C", str(folder)], check=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(
            f"error: building the compiled operators failed ({error}); see the compiler's output "
            f"above"
        )


def install_library(built: Path, target: Path) -> None:
    """Replaces ``target`` atomically, and only when it differs: a running process may have the old
    one mapped.
    """
    if target.is_file() and target.read_bytes() == built.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    os.close(handle)
    shutil.copy(built, part)
    Path(part).replace(target)


class BuildOps(build_ext):
    """``build_ext`` for the NumPy modules and the operator library, whose name has no interpreter
    tag: it is no module.
    """

    def run(self) -> None:
        build()
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")
        libraries = {Path(library).stem: library for library in (LIBRARY, PLUGIN)}
        return str(Path(*package, libraries.get(name, name + MODULE_SUFFIX)))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        install_library(BUILD / target.name, target)

    def copy_extensions_to_source(self) -> None:
        for name in targets():
            install_library(BUILD / name, ROOT / "rfdetr_repro" / name)


class BuildWithRecords(build_py):
    """``build_py`` that also copies the stores of ``results/`` to rfdetr_repro/records/stored, so
    that tables, figures and reports of an installed package have this project's Records. The raw
    samples stay behind: only ``intervals`` reads them. An editable install reads ``results/``.
    """

    def stores(self) -> list[tuple[Path, Path]]:
        """Each store, and where it is copied to."""
        target = Path(self.build_lib) / "rfdetr_repro" / "records" / "stored"
        return [(store, target / store.name) for store in sorted(RESULTS.glob("*.jsonl"))]

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for store, target in self.stores():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(store), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        found = list(super().get_outputs(include_bytecode))
        return found + [str(target) for _, target in self.stores() if not self.editable_mode]


if __name__ == "__main__":  # packages/rfdetr-ops/setup.py takes functions from here
    setup(
        ext_modules=[
            Extension(f"rfdetr_repro.{name}", sources=[])
            for name in (
                "librfdetr_ops",
                *([Path(PLUGIN).stem] if tensorrt_headers() else []),
                *(f"_{module}" for module in MODULES),
            )
        ],
        cmdclass={"build_ext": BuildOps, "build_py": BuildWithRecords},
    )
