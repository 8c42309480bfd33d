"""The machine and environment of a measurement: processor, memory, driver, package versions,
commit.

A missing part is left out. A part that exists and cannot be read is "unknown": a query that fails
never counts as absence.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from rfdetr_repro.records.record import Machine

UNKNOWN = "unknown"
# At least one of these files exists where an NVIDIA driver is loaded: on Linux, in containers, and
# in Windows'
# subsystem for Linux.
DRIVER_SIGNS = (
    "/proc/driver/nvidia/version",
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/usr/lib/wsl/lib/libcuda.so.1",
)
NO_DEVICES = 6  # exit code of nvidia-smi where the driver has no GPU to show
PACKAGES = (
    *(
        "torch",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "tensorrt",
        "tensorrt-rtx",
        "cuda-bindings",
        "transformers",
    ),
    *("numpy", "scipy", "faster-coco-eval", "hotcoco", "pillow", "nvidia-ml-py"),
)


@lru_cache
def this_machine() -> Machine:
    """The machine that this process runs on, with the cores and the memory that this process may
    use (affinity, container limits).

    ``gpu``: the name of the first NVIDIA GPU; None where no NVIDIA driver is loaded; "unknown"
    where a driver is loaded and does not answer.
    """
    gpu, driver = _nvidia()
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Machine(
        cpu_model(), usable_cores(), round(usable_memory_bytes() / 2**30, 1), system, gpu, driver
    )


def cpu_model(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Model name of the processor, as the operating system gives it."""
    path = Path(cpuinfo)
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "cpu model", "hardware") and value.strip():
                return " ".join(value.split())
    found = (
        _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if platform.system() == "Darwin"
        else None
    )
    return found or platform.processor() or platform.machine() or "unknown"


def usable_cores(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Number of cores that this process may use, rounded up: the least of machine, affinity and
    container quota.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    limit = _read(Path(cgroup, "cpu.max")).split()
    if len(limit) == 2 and limit[0].isdigit():
        cores = min(cores, max(1, -(-int(limit[0]) // int(limit[1]))))
    return cores


def usable_memory_bytes(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Memory in bytes that this process may use: the lesser of the machine's memory and the
    container's limit.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path(cgroup, "memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def environment() -> dict[str, str]:
    """Versions by package, "python", and, inside a repository, "git" with the answer of
    :func:`git_commit` at the first call: the process goes on with the code that it loaded.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _own_commit()
    return found if commit is None else {**found, "git": commit}


@lru_cache
def _own_commit() -> str | None:
    """The commit of this program, asked once a process: a search makes many Records."""
    return git_commit(Path(__file__).resolve().parents[2])


def git_commit(folder: Path) -> str | None:
    """Commit of the work tree whose top folder is ``folder``; None where there is no work tree.

    The answer is "COMMIT-dirty" if tracked files differ from the commit, "COMMIT-unknown" if git
    cannot tell whether they differ, and "unknown" if git is missing or fails, or if there is no
    commit yet.
    """
    if not (folder / ".git").exists():
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"])
    if not commit:
        return UNKNOWN
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    if changed is None:
        return f"{commit}-{UNKNOWN}"
    return f"{commit}-dirty" if changed else commit


def machine_with_gpu(uuid: str) -> Machine:
    """This machine with the GPU that is measured; the GPU's name is "unknown" if the driver does
    not give the name.
    """
    gpu, driver = _nvidia(f"--id={uuid}")
    return replace(this_machine(), gpu=gpu or UNKNOWN, driver=driver or UNKNOWN, gpu_uuid=uuid)


def has_nvidia_driver(signs: Sequence[str] = DRIVER_SIGNS) -> bool:
    """Whether an NVIDIA driver is loaded, even if its GPUs cannot be queried."""
    return any(Path(sign).exists() for sign in signs)


def _nvidia(*which: str, signs: Sequence[str] = DRIVER_SIGNS) -> tuple[str | None, str | None]:
    """(name, driver version) of the first GPU; (None, None) without a driver or a GPU; "unknown"
    for a value that the driver does not give.
    """
    unknown = (UNKNOWN, UNKNOWN) if has_nvidia_driver(signs) else (None, None)
    code, found = _run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", *which]
    )
    if code == NO_DEVICES:
        return None, None
    if code != 0 or "," not in found:
        return unknown
    name, driver = found.splitlines()[0].rsplit(",", 1)
    return name.strip() or UNKNOWN, driver.strip() or UNKNOWN


def _output(command: Sequence[str]) -> str | None:
    """The output of a command, or None if the command is missing, fails or hangs."""
    code, found = _run(command)
    return found if code == 0 else None


def _run(command: Sequence[str]) -> tuple[int | None, str]:
    """Exit code and output of a command; the code is None if the command is missing, cannot be
    started or hangs.
    """
    if shutil.which(command[0]) is None:
        return None, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (subprocess.SubprocessError, OSError):
        return None, ""
    return done.returncode, done.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
