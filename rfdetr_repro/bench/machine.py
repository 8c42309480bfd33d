"""What a measurement ran on: processor, memory, driver, package versions, commit. What cannot be read is left out."""

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

from ..record import Machine

PACKAGES = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-bindings", "transformers"),
    *("numpy", "scipy", "faster-coco-eval", "hotcoco", "pillow", "nvidia-ml-py"),
)


@lru_cache
def this_machine() -> Machine:
    """The machine this process runs on; cores and memory as far as this process may use them (affinity, container limits)."""
    gpu, driver = _nvidia()
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Machine(cpu_model(), usable_cores(), round(usable_memory_bytes() / 2**30, 1), system, gpu, driver)


def cpu_model(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Model name as the operating system gives it."""
    path = Path(cpuinfo)
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "cpu model", "hardware") and value.strip():
                return " ".join(value.split())
    found = _output(["sysctl", "-n", "machdep.cpu.brand_string"]) if platform.system() == "Darwin" else None
    return found or platform.processor() or platform.machine() or "unknown"


def usable_cores(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Cores this process may use, rounded up: the least of machine, affinity and container quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _read(Path(cgroup, "cpu.max")).split()
    if len(limit) == 2 and limit[0].isdigit():
        cores = min(cores, max(1, -(-int(limit[0]) // int(limit[1]))))
    return cores


def usable_memory_bytes(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Memory this process may use: the lesser of the machine's and the container's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path(cgroup, "memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def environment() -> dict[str, str]:
    """Package -> version, "python", and "git" -> commit (with "-dirty" if files differ from it) where there is a repository."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = git_commit(Path(__file__).resolve().parents[2])
    return found if commit is None else {**found, "git": commit}


def git_commit(folder: Path) -> str | None:
    """Commit of the work tree whose top is ``folder``; None where there is none."""
    if not (folder / ".git").exists():
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit and commit + ("-dirty" if changed else "")


def machine_with_gpu(uuid: str) -> Machine:
    """This machine, with the one of its GPUs that is measured; its name is "unknown" if the driver does not tell."""
    gpu, driver = _nvidia(f"--id={uuid}")
    return replace(this_machine(), gpu=gpu or "unknown", driver=driver, gpu_uuid=uuid)


def _nvidia(*which: str) -> tuple[str | None, str | None]:
    found = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", *which])
    if not found or "," not in found:
        return None, None
    name, driver = found.splitlines()[0].rsplit(",", 1)
    return name.strip(), driver.strip()


def _output(command: Sequence[str]) -> str | None:
    """What a command prints, or None if it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (subprocess.SubprocessError, OSError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
