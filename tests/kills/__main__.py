"""Kills a tiny campaign at random moments and checks that nothing is lost: ``python tests/kills
--runs 8 --kills 20 --seed 0``.

Once the campaign (``chain.py``) runs undisturbed, then ``--runs`` times with SIGKILL: of the parent
alone or of its whole process group, at a random time or at a chosen moment (``watch.py``). After
each kill the same command runs again, until it ends. Wrong is: an exit code other than 0, an
outcome (``outcome.py``) other than the undisturbed one, a file left over in the run's folder or in
the temporary folder, a process that outlives its parent. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(ROOT)]

from chain import Command, commands  # noqa: E402
from outcome import differences, modelled_ms, outcome  # noqa: E402
from samples_sam import write_sam  # noqa: E402
from watch import MARK, Moments, kill, processes, wait_for_none  # noqa: E402

SURVIVE_S = 60.0  # processes may take so long to notice that their parent is gone
# what ONNX Runtime and PyTorch keep in the temporary folder, killed or not
OF_LIBRARIES = (".ses", "torchinductor_")
LONGEST_S = 1800.0  # a command that takes longer hangs


@dataclass
class Kill:
    """One kill that is planned: of ``command``, at ``moment`` ("" for a random time)."""

    command: str
    moment: str
    group: bool
    # the command runs again at once, while processes of the killed one may still be there
    at_once: bool
    skip: int


@dataclass
class Run:
    """One campaign in a folder of its own, with a temporary folder of its own."""

    place: Path
    sam: Path
    ray: bool
    rng: random.Random
    usual_s: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.place / "c"
        self.temporary = self.place / "t"
        for folder in (self.folder, self.temporary):
            folder.mkdir(parents=True)
        self.mark = f"{os.getpid()}-{self.place.name}"

    def go(self, planned: list[Kill]) -> dict[str, Any]:
        """Runs every command to its end; returns the outcome."""
        for command in commands(self.folder, self.sam, self.ray):
            command.prepare()
            mine = [one for one in planned if one.command == command.name]
            started = time.monotonic()
            for one in mine:
                if self._killed(command, one):
                    continue
                break  # it ended before its moment came
            self._finish(command)
            if not planned:
                self.usual_s[command.name] = time.monotonic() - started
        waited, left = wait_for_none(self.mark, SURVIVE_S)
        if left:
            self.wrong.append(
                f"{len(left)} processes are left {waited:.0f} s after the end: {left}"
            )
        if names := sorted(
            path.name for path in self.temporary.iterdir() if not path.name.startswith(OF_LIBRARIES)
        ):
            self.wrong.append(f"left in the temporary folder: {names[:5]}")
        return outcome(self.folder) if not any("exit code" in line for line in self.wrong) else {}

    def _start(self, command: Command) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
        }
        # two processes train; none spins while it waits
        environment |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
        log = open(self.place / f"{command.name}.log", "ab")
        with log:
            return subprocess.Popen(
                command.argv,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _killed(self, command: Command, plan: Kill) -> bool:
        """Runs the command until its kill; False: it ended before."""
        process = self._start(command)
        started = time.monotonic()
        at_s = self.rng.uniform(0.0, self.usual_s[command.name])
        came = (
            Moments(self.folder, self.mark, plan.skip).question(plan.moment)
            if plan.moment
            else None
        )
        while process.poll() is None:
            if came() if came is not None else time.monotonic() - started > at_s:
                break
            if time.monotonic() - started > LONGEST_S:
                self.wrong.append(f"{command.name} hangs")
                break
            time.sleep(0.001)
        if process.poll() is not None:
            if process.returncode:
                self.wrong.append(
                    f"{command.name} before its kill: exit code {process.returncode}: "
                    f"{self._last_line(command)}"
                )
            return False
        kill(process, plan.group)
        process.wait()
        who = "group" if plan.group else "parent"
        when = plan.moment or "random"
        self.kills.append(f"{command.name} {who} {when} after {time.monotonic() - started:.1f} s")
        if not plan.at_once:
            waited, left = wait_for_none(self.mark, SURVIVE_S)
            self.kills[-1] += f"; all processes gone after {waited:.1f} s"
            if left:
                self.wrong.append(
                    f"{len(left)} processes outlive their parent ({who}, {command.name}, {when}): "
                    f"{left}"
                )
        return True

    def _finish(self, command: Command) -> None:
        process = self._start(command)
        try:
            code = process.wait(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            kill(process, group=True)
            self.wrong.append(f"{command.name} hangs")
            return
        if code:
            self.wrong.append(f"{command.name}: exit code {code}: {self._last_line(command)}")

    def _last_line(self, command: Command) -> str:
        lines = (
            (self.place / f"{command.name}.log")
            .read_text(errors="replace")
            .replace("\r", "\n")
            .strip()
            .splitlines()
        )
        return lines[-1][:300] if lines else ""

    def end_all(self) -> None:
        """Ends what this run started and what is still there."""
        for pid in processes(self.mark):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


def plans(runs: int, kills: int, ray: bool, rng: random.Random) -> list[list[Kill]]:
    """For each run its kills in order: half of them at random times, half at the moments of the
    commands in turn.
    """
    chosen = commands(Path("none"), Path("none"), ray)
    moments = [(command.name, moment) for command in chosen for moment in command.moments]
    in_order = list(moments)  # as they come in a run: a moment that has passed does not come again
    rng.shuffle(moments)
    rows: list[list[Kill]] = [[] for _ in range(runs)]
    for number in range(kills):
        if (number + number // runs) % 2:  # so that every run has both
            name, moment = moments[number // 2 % len(moments)]
        else:
            (name,), moment = (
                rng.choices([one.name for one in chosen], [one.weight for one in chosen]),
                "",
            )
        late = rng.randrange(3) if moment in ("part", "checkpoint", "race", "store") else 0
        rows[number % runs].append(Kill(name, moment, rng.random() < 0.5, rng.random() < 0.5, late))
    order = {pair: place for place, pair in enumerate(in_order)}
    return [sorted(row, key=lambda one: order.get((one.command, one.moment), -1)) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(
        "kills", description="Kill a tiny campaign at random and check that nothing is lost."
    )
    parser.add_argument(
        "--runs", type=int, default=8, help="campaigns that are killed and run again (default 8)"
    )
    parser.add_argument(
        "--kills", type=int, default=20, help="of all of them together, at least (default 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-ray", action="store_true", help="without the search on Ray workers")
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the campaigns, which then stay (a short path; default: a new one)",
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    ray = not args.no_ray and importlib.util.find_spec("ray") is not None
    print(f"Ray workers: {'yes' if ray else 'no'}", flush=True)
    place = args.keep or Path(tempfile.mkdtemp(prefix="k_", dir="/tmp"))
    place.mkdir(exist_ok=True)
    try:
        return _all(place, args.runs, args.kills, ray, rng)
    finally:
        if args.keep is None:
            shutil.rmtree(place, ignore_errors=True)


def _all(place: Path, runs: int, kills: int, ray: bool, rng: random.Random) -> int:
    sam = write_sam(place / "sam")
    whole = Run(place / "0", sam, ray, rng)
    wanted = whole.go([])
    print(
        f"undisturbed: "
        f"{', '.join(f'{name} {spent:.0f} s' for name, spent in whole.usual_s.items())}",
        flush=True,
    )
    if whole.wrong:
        print("\n".join(f"WRONG: {line}" for line in whole.wrong))
        return 1
    latencies = modelled_ms(whole.folder)
    print(
        f"modelled: {', '.join(f'{name} {ms:.2f} ms' for name, ms in latencies.items())}",
        flush=True,
    )
    done = 0
    wrong = list(whole.wrong)
    number = 0
    while number < runs or done < kills:
        (planned, *_) = (
            plans(runs, kills, ray, rng)[number % runs :]
            if number < runs
            else plans(1, 3, ray, rng)
        )
        number += 1
        run = Run(place / str(number), sam, ray, rng, whole.usual_s)
        found = run.go(planned)
        if list(modelled_ms(run.folder)) != list(latencies):
            run.wrong.append(
                "the order of the modelled latencies is another one: choose resolutions further "
                "apart"
            )
        if unlike := differences(wanted, found):
            run.wrong += [f"differs from the undisturbed run: {line}" for line in unlike]
        run.end_all()
        done += len(run.kills)
        wrong += run.wrong
        print(
            f"run {number}: {'right' if not run.wrong else 'WRONG'}; {len(run.kills)} kills",
            flush=True,
        )
        for line in [*run.kills, *(f"WRONG: {line}" for line in run.wrong)]:
            print(f"    {line}", flush=True)
        if not run.wrong:
            shutil.rmtree(run.place)
    print(
        f"{number} runs, {done} kills: {len(wrong)} wrong; {len(wanted)} things equal in each run"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
