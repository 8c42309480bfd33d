r"""Everything that needs a CUDA device, in two commands with a deadline each: the evidence first.

    python benchmarks/gpu.py --out results/gpu                       # evidence, within 10 minutes
    python benchmarks/gpu.py --part training --out results/training  # the rest, within 5 minutes
    python benchmarks/gpu.py --out build/gpu --dry-run      # every step on a CPU, at toy size

Needs PyTorch >= 2.10 built for CUDA, NumPy, SciPy, pytest and nvcc; no network. With pytest-xdist
the tests run in six processes, without it in one, which may exceed their time. compute-sanitizer
and ncu of the CUDA toolkit are used where they are installed. The order, and the seconds that each
step may take, are those of ``--list``. A step is a process of its own: it writes its Records at
once, is ended when its time is over, and does not stop the others when it fails. A step that finds
a wrong result goes on, and fails at its end. The folder then holds ``records.jsonl`` (all Records),
``summary.txt`` (all that was printed) and ``gpu.tar.gz`` (both, with logs and test results),
renewed after every step, so that a run that is cut off leaves what it had found.

Where wheels are missing, carry them: pytest-xdist with execnet; faster-coco-eval, hotcoco and
pycocotools (4 MB in all), which evaluation needs; fpdf2, uharfbuzz and argcomplete only for
reports. For a machine with Python 3.12:

    pip download --no-deps --only-binary=:all: --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform \
        manylinux2014_x86_64 -d wheels pytest-xdist execnet faster-coco-eval hotcoco pycocotools
    pip install --no-index --no-deps --target site wheels/*.whl     # there; PYTHONPATH=site

``--library FILE`` carries a prebuilt ``librfdetr_ops.so`` for a machine whose compiler fails.
``RFDETR_ORIGINAL`` names the text of Deformable DETR's operator, which is then a peer
(``gpu_steps/original.py``). Exit code 0 when every step succeeded, 1 when a step failed, and 4 when
none failed and some were left out for want of a program or a permission, which the last line names.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = "evidence"
TRAINING = "training"
ALL = "all"
# of a run, in seconds: a command has 10 minutes, the machine 15 with its start
DEADLINES = {EVIDENCE: 550.0, TRAINING: 270.0, ALL: 820.0}
GPU_TESTS = [
    "tests/runtime/test_cuda_device.py",
    "tests/runtime/test_torch_session.py",
    "tests/runtime/test_ort_cuda_session.py",
    "tests/train/test_auto_batch.py",
    "tests/runtime/test_tensorrt_session.py",
    "tests/search/test_deployment.py",
    "tests/search/test_deployment_torch.py",
    "tests/bench/test_gpu_load.py",
    "tests/bench/test_gpu_watch.py",
    "tests/runtime/test_torch_precision.py",
    "tests/data/test_device_input.py",
]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# two calls that take every path in several chunks
SANITIZED_TESTS = (
    "tests/ops/test_ops_paths_cuda.py",
    "-k",
    "test_every_path and (pairs-fused-torch.float32 or levels-locations-torch.bfloat16)",
)
WRONG = 3  # exit code of a step of gpu_steps that found a wrong result
ABSENT = 4  # of a step that lacks what it needs, and says what; of a run with such a step
KILLED_AFTER_S = 5.0  # between the request to end and the end
SLACK_S = 10.0  # beyond a step's time, in which it may still end by itself
DRY_S = 3600.0  # the same, and the deadline, of a dry run, on a machine of any load
LEAST_S = 5.0  # with less, a step is not begun


@dataclass(frozen=True)
class Part:
    """A step of the run: its command, its time in seconds, and the environment it adds.

    ``limit_s``: seconds after which the step is ended; None: its time and :data:`SLACK_S` more.
    ``needed``: no later step can run without this step. ``measures``: all that the step prints
    belongs to the summary. ``absent``: why the step is left out.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    environment: tuple[tuple[str, str], ...] = ()
    limit_s: float | None = None
    needed: bool = False
    measures: bool = False
    absent: str | None = None


def operator_tests() -> list[str]:
    """Files of tests of the operators, without those that search for counterexamples."""
    return [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests" / "ops").glob("test_ops*.py"))
        if "properties" not in path.name
    ]


def measuring(name: str, seconds: float, dry: bool, work: Path) -> Part:
    """A step of ``gpu_steps``."""
    command = [sys.executable, "-m", f"benchmarks.gpu_steps.{name}"]
    given_s = DRY_S if dry else seconds  # a dry run leaves nothing out, however slow the machine
    command += ["--out", str(work / f"{name}.jsonl"), "--seconds", f"{given_s:g}"]
    command += ["--device", "cpu", "--toy"] if dry else []
    return Part(name, tuple(command), seconds, measures=True)


def tool(name: str) -> str | None:
    """Path of a program of the CUDA toolkit; None where it is not installed."""
    usual = [Path("/usr/local/cuda/bin") / name]
    usual += sorted(Path("/opt/nvidia/nsight-compute").glob(f"*/{name}"))
    return shutil.which(name) or next((str(path) for path in usual if path.is_file()), None)


def sanitizing(name: str, seconds: float) -> Part:
    """A part of the tests of the operators' paths under a tool of compute-sanitizer."""
    sanitizer = tool("compute-sanitizer")
    command = (
        *(sanitizer or "compute-sanitizer", "--tool", name, "--error-exitcode", "9"),
        *(*PYTEST, "-m", "gpu", *SANITIZED_TESTS),
    )
    # else overruns stay inside the blocks of the allocator
    uncached = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    absent = None if sanitizer else "compute-sanitizer is not installed"
    return Part(name, command, seconds, uncached, absent=absent)


def plan(dry: bool, work: Path, part: str = ALL) -> list[Part]:
    """The steps of a part of the run in their order; a dry run neither builds nor sanitizes."""
    with_xdist = not dry and importlib.util.find_spec("xdist") is not None
    tests = [*PYTEST, "-m", "gpu", *(["-n", "6"] if with_xdist else [])]
    tests += ["--assert=plain"] if dry else []  # all are skipped; rewriting them takes seconds
    tests += [*operator_tests(), *GPU_TESTS, f"--junitxml={work}/tests.xml"]
    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    evidence = [
        measuring("environment", 10, dry, work),
        measuring("ceilings", 15, dry, work),
        Part("tests", tuple(tests), 40),
        measuring("operators", 50, dry, work),
        measuring("paths", 15, dry, work),
        *([] if dry else [sanitizing(name, 30) for name in SANITIZERS]),
        measuring("ncu", 20, dry, work),
        measuring("latency", 230, dry, work),
        measuring("search_passes", 35, dry, work),
    ]
    training = [
        measuring("training", 60, dry, work),
        measuring("supernet", 85, dry, work),
        measuring("compiled", 85, dry, work),
    ]
    chosen = {EVIDENCE: evidence, TRAINING: training, ALL: [*evidence, *training]}[part]
    return chosen if dry else [Part("build", build, 35, limit_s=120, needed=True), *chosen]


class Run:
    """One run of the script: what is left of its time, and what it leaves."""

    def __init__(self, out: Path, deadline_s: float, dry: bool) -> None:
        """Everything is written below ``out``; the run ends ``deadline_s`` seconds from now."""
        self.out = out
        self.work = out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.ends = time.monotonic() + deadline_s
        self.dry = dry
        self.slack_s = DRY_S if dry else SLACK_S
        self.summary: list[str] = []
        self.failed: list[str] = []
        self.absent: dict[str, str] = {}  # step -> why

    def say(self, text: str) -> None:
        """Prints a line and keeps it for the summary."""
        print(text, flush=True)
        self.summary.append(text)

    def take(self, part: Part) -> bool:
        """Runs a step, in its time or what is left of the run's; returns whether it succeeded."""
        if part.absent:
            self.say(f"== {part.name}: left out, {part.absent}")
            self.absent[part.name] = part.absent
            return False
        left = self.ends - time.monotonic()
        limit = min(part.limit_s or part.seconds + self.slack_s, left - KILLED_AFTER_S)
        if limit < LEAST_S:
            self.say(f"== {part.name}: left out, {left:.0f} s are left")
            self.failed.append(part.name)
            return False
        log = self.work / f"{part.name}.log"
        started = time.monotonic()
        code = run_command(part, log, limit, self.dry)
        spent = time.monotonic() - started
        text = log.read_text(errors="replace").strip().splitlines()
        if code == ABSENT:
            self.absent[part.name] = text.pop() if text else "without a reason"
        known = {
            0: "ok",
            None: f"ended after its {limit:.0f} s",
            WRONG: "FAILED, wrong results",
            ABSENT: f"left out, {self.absent.get(part.name)}",
        }
        ended = known.get(code, f"FAILED ({code})")
        self.say(f"== {part.name}: {ended}, {spent:.0f} s")
        shown = text if part.measures else text[-12:]
        for line in shown:
            self.say(line[:240])
        if code not in (0, ABSENT):
            self.failed.append(part.name)
        return code == 0

    @property
    def ended(self) -> str:
        """How the run ended, in a line."""
        ended = f"failed or cut off: {', '.join(self.failed)}" if self.failed else "all steps ok"
        if not self.absent:
            return ended
        ended = ended if self.failed else "all other steps ok"
        return f"{ended}; left out: " + ", ".join(
            f"{name} ({why})" for name, why in self.absent.items()
        )

    @property
    def code(self) -> int:
        """The exit code of the run."""
        if self.failed:
            return 1
        return ABSENT if self.absent else 0

    def pack(self) -> None:
        """Renews the three files that leave the machine."""
        stores = sorted(self.work.glob("*.jsonl"))
        (self.out / "records.jsonl").write_bytes(b"".join(path.read_bytes() for path in stores))
        (self.out / "summary.txt").write_text("\n".join(self.summary) + "\n")
        with tarfile.open(self.out / "gpu.tar.gz", "w:gz") as archive:
            for path in sorted(self.work.iterdir()):
                if path.is_file() and path.stat().st_size < 2**23:
                    archive.add(path, path.name)
            archive.add(self.out / "summary.txt", "summary.txt")


def run_command(part: Part, log: Path, limit_s: float, dry: bool) -> int | None:
    """Exit code of a step whose output goes to ``log``; None if its time was over. The whole group
    of processes is then ended.
    """
    environment = {**os.environ, "PYTHONPATH": path_with_root(), **dict(part.environment)}
    environment |= {"PYTHONUNBUFFERED": "1", "RFDETR_CUDA": "0" if dry else "1"}
    if arch := architecture():
        environment["RFDETR_CUDA_ARCHS"] = arch  # this device's kernels only: minutes less
    if dry and part.measures and part.command[1] == "-m":
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
        from benchmarks.gpu_steps import forked

        return forked.run(part.command[2:], log, environment, limit_s)
    with log.open("w") as stream:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            end_group(process)
            return None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks a step and its children to end, then ends them."""
    for number, wait_s in ((signal.SIGTERM, KILLED_AFTER_S), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait_s)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def path_with_root() -> str:
    """PYTHONPATH with the repository first."""
    given = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{given}" if given else str(ROOT)


@cache
def architecture() -> str | None:
    """Compute capability of the first GPU, like "90"; None where the driver shows none."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = done.stdout.split()
    return lines[0].replace(".", "") if done.returncode == 0 and lines else None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "results/gpu")),
        help="folder of Records, summary and archive (default: %(default)s)",
    )
    found.add_argument(
        "--deadline",
        type=float,
        metavar="S",
        help="seconds after which the run ends, whatever is missing (default: "
        + ", ".join(f"{seconds:g} for {part}" for part, seconds in DEADLINES.items())
        + f", {DRY_S:g} for a dry run)",
    )
    found.add_argument(
        "--part",
        choices=list(DEADLINES),
        help=f"which steps (default: {EVIDENCE}; of a dry run and with --only, {ALL})",
    )
    found.add_argument(
        "--only", nargs="+", metavar="STEP", help="these steps, in the order of --list"
    )
    found.add_argument("--skip", nargs="+", metavar="STEP", default=[], help="all but these steps")
    found.add_argument(
        "--library",
        type=Path,
        metavar="FILE",
        help="prebuilt librfdetr_ops.so, used if the build fails",
    )
    found.add_argument(
        "--dry-run",
        action="store_true",
        help="run every measuring step at toy size on a CPU, as a fork of this process, and the "
        "tests without a GPU",
    )
    found.add_argument("--list", action="store_true", help="print the steps and end")
    return found


def part_of(args: argparse.Namespace) -> str:
    """Which part of the run is asked for."""
    return str(args.part or (ALL if args.dry_run or args.only else EVIDENCE))


def deadline_of(args: argparse.Namespace) -> float:
    """Seconds after which the run ends: as asked, or by the kind of the run."""
    if args.deadline is not None:
        return float(args.deadline)
    return DRY_S if args.dry_run else DEADLINES[part_of(args)]


def chosen(parts: Sequence[Part], only: Sequence[str] | None, skip: Sequence[str]) -> list[Part]:
    """The steps to take. Raises :class:`ValueError` for a name that no step has."""
    names = [part.name for part in parts]
    for name in (*(only or ()), *skip):
        if name not in names:
            raise ValueError(f"no step is called {name!r}; the steps are {', '.join(names)}")
    return [part for part in parts if part.name in (only or names) and part.name not in skip]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the steps; returns the exit code."""
    args = parser().parse_args(argv)
    work = args.out / "work"
    try:
        planned = plan(args.dry_run, work.resolve(), part_of(args))
        parts = chosen(planned, args.only, args.skip)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.list:
        for part in parts:
            print(f"{part.seconds:5.0f} s  {part.name}")
        print(f"{sum(part.seconds for part in parts):5.0f} s  of {deadline_of(args):g}")
        return 0
    if not args.dry_run and architecture() is None:
        print("error: no NVIDIA GPU answers; --dry-run tries every step on a CPU", file=sys.stderr)
        return 2
    deadline_s = deadline_of(args)
    if not deadline_s > 0:
        print("error: --deadline must be more than 0 seconds", file=sys.stderr)
        return 2
    try:
        run = Run(args.out, deadline_s, args.dry_run)
    except OSError as error:
        reason = f"{error.strerror}; choose another folder with --out"
        print(f"error: cannot write to {args.out}: {reason}", file=sys.stderr)
        return 2
    for part in parts:
        done = run.take(part)
        if part.needed and not done:
            if args.library is None:
                run.say("the build failed and there is no --library: nothing else can run")
                run.pack()
                return 1
            shutil.copyfile(args.library, ROOT / "rfdetr_repro" / "librfdetr_ops.so")
            run.say(f"the build failed: {args.library.name} is used")
        run.pack()
    run.say(run.ended)
    run.pack()
    return run.code


if __name__ == "__main__":
    raise SystemExit(main())
