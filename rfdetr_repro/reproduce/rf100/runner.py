"""Runs the flow on every data set of many, in this process or on Ray workers, and collects their
Records.

Folder of a run: ``rf100.json`` (what was asked, and the settings that all data sets share),
``NAME/`` (the run of a data set, which resumes by itself), ``NAME/result.json`` and
``NAME/rf100.jsonl`` (written when a data set is finished), ``records.jsonl`` (of all finished data
sets, with their means). A data set that fails is stated in one line, and the others go on.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rfdetr_repro.records.aggregate import mean_of
from rfdetr_repro.records.data_sets import DECIDING, VARIANTS
from rfdetr_repro.records.record import RF100, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce.together import Together
from rfdetr_repro.search.cluster.pool import LocalPool, Pool
from rfdetr_repro.search.request import Cluster
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError, StatedFailure, first_line
from rfdetr_repro.spec.files import read_json, sha256_bytes, write_atomic
from rfdetr_repro.spec.sizing import SIDE_STEP, Sizing

from .data_set_run import DataSetRun, Wanted
from .data_sets import DataSet, check_data_set

log = logging.getLogger(__name__)

ASKED = "rf100.json"
RESULT = "result.json"
RECORDS = "records.jsonl"
OWN_RECORDS = "rf100.jsonl"
ERROR = "error.txt"


@dataclass(frozen=True)
class Request:
    """A run over data sets. ``campaign``: without data; its model and space are those before the
    common settings are applied. ``name``: of the means, such as rf100-vl.
    """

    campaign: Campaign
    wanted: Wanted
    folder: Path
    name: str
    command: str
    cluster: Cluster | None = None  # None: in this process
    processes: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a run that goes on must not change. A time budget may change: it is shared by the
        data sets, of which there may be more.
        """
        campaign = self.campaign
        return {
            "wanted": asdict(self.wanted),
            "space": asdict(campaign.space),
            "preset": asdict(campaign.preset),
            "train": asdict(campaign.train),
            "weights": None if campaign.weights is None else campaign.weights.name,
            "finetune_steps": campaign.finetune_steps,
            "engines": campaign.engines,
            "candidates": campaign.candidates,
            "metric": campaign.metric,
            "deployment": [campaign.backend, campaign.precision, campaign.cuda_graph],
            "protocol": campaign.decision.settings(),
        }


class Failed(NamedTuple):
    """A data set without a result, and why."""

    name: str
    line: str


@dataclass(frozen=True)
class Outcome:
    """What a run over data sets ended with; ``records`` are also in the store of ``folder``."""

    records: list[Record]
    failed: list[Failed]
    folder: Path


def check_all(
    sources: Sequence[Any], patch: int, tell: Callable[[str], None] = log.info
) -> tuple[list[DataSet], list[Failed]]:
    """Reads every data set before anything is spent; the usable, and the others with the reason.

    Raises :class:`InputError` where none can be used, where two have one name, and where composed
    and real images are mixed.
    """
    found: list[DataSet] = []
    failed: list[Failed] = []
    for source in sources:
        try:
            one = check_data_set(source, patch)
        except InputError as error:
            failed.append(Failed(source.name, first_line(error)))
            continue
        tell(one.line)
        found.append(one)
    if not found:
        raise InputError(
            f"none of {len(sources)} data sets can be used; the first: {failed[0].line}"
        )
    for name, line in failed:
        log.warning(f"{name} is left out: {line}")
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"two data sets are called {min(twice)}",
            "the info of their annotations",
            "name them differently",
        )
    composed = [name.startswith("embedded") for name in names]
    if any(composed) and not all(composed):
        raise InputError(
            "composed and real images would be in one mean",
            f"{names[composed.index(True)]} and {names[composed.index(False)]}",
            "run them separately, each with an --out of its own",
        )
    return found, failed


def common_sizing(data_sets: Sequence[DataSet], given: Any = None) -> Sizing:
    """One resolution and one number of queries for all data sets: the median resolution that their
    train splits ask for, in steps of 32 px, and the largest number of queries; or those of
    ``given``, an architecture.
    """
    sizes = [one.sizing for one in data_sets]
    if given is not None:
        reasons = (
            f"resolution {given.resolution} px: that of --fixed",
            f"{given.queries} queries: those of --fixed",
        )
        return Sizing(given.resolution, given.queries, reasons=reasons)
    side = median(one.resolution or 0 for one in sizes)
    resolution = round(side / SIDE_STEP) * SIDE_STEP
    queries = max(one.queries or 0 for one in sizes)
    return Sizing(
        resolution,
        queries,
        reasons=(
            f"resolution {resolution} px: the median of what {len(sizes)} data sets ask for",
            f"{queries} queries: what the most crowded of {len(sizes)} data sets asks for",
        ),
    )


def kept_sizing(request: Request, data_sets: Sequence[DataSet], given: Any) -> Sizing:
    """The common settings of the folder's first session. Raises :class:`InputError` where the
    folder was begun with other settings, or holds a result of other annotations.
    """
    path = request.folder / ASKED
    digest = sha256_bytes(json.dumps(request.settings, sort_keys=True).encode())
    if path.exists():
        before = read_json(path)
        if not isinstance(before, dict) or before.get("settings_sha256") != digest:
            raise InputError(
                "the folder was begun with other settings",
                path,
                "repeat the first command, or choose another --out",
            )
        sizing = Sizing.from_json(before["sizing"])
    else:
        sizing = common_sizing(data_sets, given)
        content = {
            "settings_sha256": digest,
            "sizing": sizing.as_json(),
            "settings": request.settings,
            "command": request.command,
        }
        write_atomic(path, json.dumps(content, indent=1))
    for one in data_sets:
        result = _result(request.folder / one.source.name)
        if result is not None and result["sha256"] != one.sha256:
            raise InputError(
                f"the annotations of {one.name} changed since its result was stored",
                request.folder / one.source.name,
                "remove this folder, or choose another --out",
            )
    return sizing


def run(
    request: Request, data_sets: Sequence[DataSet], failed: Sequence[Failed], sizing: Sizing
) -> Outcome:
    """Runs what is not finished; returns all Records.

    Raises :class:`InputError` where another run writes the folder.
    """
    store = Store(request.folder / RECORDS)
    with store.exclusive():
        work = Work(request, sizing)
        waiting = [one for one in data_sets if _result(request.folder / one.source.name) is None]
        done = len(data_sets) - len(waiting)
        if done:
            log.info(f"{done} of {len(data_sets)} data sets were finished before")
        lost = list(failed)
        for item, line in _worked(request, work, waiting):
            done += 1
            if line:
                lost.append(Failed(item.name, line))
                log.warning(f"[{done} of {len(data_sets)}] {item.name} failed: {line}")
            else:
                log.info(f"[{done} of {len(data_sets)}] {item.name} is finished")
            _collect(request, data_sets)
        records = _collect(request, data_sets)
    return Outcome(records, lost, request.folder)


def _worked(
    request: Request, work: Work, items: Sequence[DataSet]
) -> Iterable[tuple[DataSet, str]]:
    """Yields each data set with "" or the line of its failure, as soon as it has ended."""
    if not items:
        return
    with closing(_pool(request, work)) as pool:
        yield from pool.run(items)


def _pool(request: Request, work: Work) -> Pool:
    """Ray workers each have a machine to themselves, because they measure latencies."""
    asked = request.cluster
    if asked is None:
        return LocalPool(work)
    from rfdetr_repro.runtime.backends import check_backend
    from rfdetr_repro.search.cluster.ray_pool import RayPool
    from rfdetr_repro.search.deployment import Deployment

    check_backend(request.campaign.backend)
    on_gpu = Deployment(request.campaign.backend, request.campaign.precision).on_gpu
    threads = request.processes or 1
    return RayPool(
        work, asked.count, asked.address, exclusive=True, threads=threads, gpus=float(on_gpu)
    )


@dataclass(frozen=True)
class Work:
    """A picklable maker of the function from a data set to "" or the line of its failure."""

    request: Request
    sizing: Sizing

    def __call__(self) -> Callable[[DataSet], str]:
        """The function."""
        return self.one

    def one(self, item: DataSet) -> str:
        """Runs a data set in its folder, which holds ``result.json`` in the end."""
        request = self.request
        folder = (request.folder / item.source.name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log.info(f"data set {item.name}, in {folder}")
        try:
            self._run(item, folder)
        except (InputError, StatedFailure) as error:
            return first_line(error)
        except Exception as error:  # a fault in one data set must not stop the others
            write_atomic(folder / ERROR, traceback.format_exc())
            return f"{type(error).__name__}: {first_line(error)} (traceback in {folder / ERROR})"
        return ""

    def _run(self, item: DataSet, folder: Path) -> None:
        request = self.request
        campaign = replace(
            request.campaign,
            name=RF100,
            title=f"Search on {item.name}",
            data=item.source,
        )
        flow = DataSetRun(
            campaign,
            folder,
            request.command,
            Together(processes=request.processes),
            wanted=request.wanted,
            common=self.sizing,
        )
        flow.run()
        own = folder / OWN_RECORDS
        write_atomic(own, "".join(one.to_json() + "\n" for one in flow.records))
        content = {
            "name": item.name,
            "sha256": item.sha256,
            "seconds": round(sum(row["seconds"] for row in flow.stages.timed()), 1),
        }
        write_atomic(folder / RESULT, json.dumps(content, indent=1))


def _result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished data set."""
    path = folder / RESULT
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or "sha256" not in found:
        raise InputError("not the result of a data set", path, "remove the file")
    return found


def _collect(request: Request, data_sets: Sequence[DataSet]) -> list[Record]:
    """Writes and returns the Records of all finished data sets, and their means over at least
    two.
    """
    records: list[Record] = []
    for one in data_sets:
        folder = request.folder / one.source.name
        if _result(folder) is not None:
            records += Store(folder / OWN_RECORDS).read()
    records += means(records, request.name, request.command)
    write_atomic(request.folder / RECORDS, "".join(record.to_json() + "\n" for record in records))
    return records


def means(records: Sequence[Record], name: str, command: str | None) -> list[Record]:
    """The mean Record of each variant on the deciding split, over the data sets that have it;
    latencies of different machines have no mean, so neither have their Records.
    """
    found = []
    for variant in VARIANTS:
        parts = sorted(
            (
                one
                for one in records
                if one.model.variant == variant
                and one.data is not None
                and one.data.split == DECIDING
                and one.accuracy is not None
            ),
            key=lambda one: one.data.name if one.data else "",
        )
        machines = {one.machine and (one.machine.cpu, one.machine.gpu) for one in parts}
        if len(parts) < 2 or len(machines) > 1:
            continue
        arch = parts[0].model.arch if len({one.model.arch for one in parts}) == 1 else None
        model = replace(
            parts[0].model, name="RF-DETR", arch=arch, checkpoint_sha256=None, variant=variant
        )
        one = mean_of(parts, model, name, command)
        found.append(replace(one, campaign=RF100))
    return found
