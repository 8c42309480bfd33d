"""Builds the report of a run as a PDF and as an HTML page with the same content. Needs no torch.

    python -m reports.build [--run DIR] [--records PATH] [--out FILE.pdf]

Everything printed comes from the files of the run folder; what the run does not hold is listed as
absent.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.records import stored
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.errors import InputError

from .aside import made_aside
from .blocks import Document
from .content import report
from .findings import pareto
from .paper import paper_document
from .run import Run, read_run

RUNS = Path("runs")


def build_report(
    run_dir: str | Path, out_pdf: str | Path | None = None, records: str | Path | None = None
) -> Path:
    """Writes ``out_pdf`` (default ``run_dir/report.pdf``) and an HTML page of the same stem, and
    returns the PDF's path.

    ``records`` replaces the run's own ``records.jsonl``. Raises :class:`InputError` for a missing
    folder, a broken file, or a run that holds nothing.
    """
    target = _pdf(out_pdf if out_pdf is not None else Path(run_dir) / "report.pdf")
    run = read_run(run_dir, records)
    if not (run.records or run.summary or run.log or run.pictures or run.evaluation):
        raise InputError(
            "there is nothing to report on: no Records, no summary, no training log and no "
            "predictions",
            run_dir if records is None else records,
            "give the folder of a run, or a store that holds Records",
        )
    front = pareto(run)
    with made_aside(front.blocks):  # which take longest
        return _written(report(run, front), target)


def build_paper(
    out_pdf: str | Path = "paper.pdf",
    run_dir: str | Path | None = None,
    records: str | Path | None = None,
) -> Path:
    """Writes ``out_pdf`` with every table and figure of the paper, and an HTML page of the same
    stem, and returns the PDF's path.

    The Records are those of ``records``, else of the run folder ``run_dir``, else those that come
    with the package and of ``results/``. Raises :class:`InputError` for a missing or broken file.
    """
    target = _pdf(out_pdf)
    source = records or run_dir
    folder = Path(run_dir) if run_dir is not None else Path()
    found = read_stores([source] if source is not None else stored.default_records())
    run = Run(folder, found, Path(source) if source is not None else None)
    document = paper_document(run, pictures=run_dir is not None)
    return _written(document, target)


def _written(document: Document, target: Path) -> Path:
    """Writes the PDF ``target`` and the HTML page next to it, and returns the PDF's path."""
    with made_aside(document.blocks):
        # load slowly; the second process is at work meanwhile
        from .html import write_html
        from .pdf import write_pdf

        write_pdf(document, target)
        write_html(document, target.with_suffix(".html"))
    return target


def _pdf(path: str | Path) -> Path:
    """The path of a PDF. Raises :class:`InputError` for another kind of file."""
    target = Path(path)
    if target.suffix.lower() != ".pdf":
        raise InputError("the report is a PDF", target, "choose a file name that ends in .pdf")
    return target


def newest_run(folder: Path = RUNS) -> Path:
    """The run folder under ``folder`` that was written to last."""
    found = [
        path
        for path in folder.glob("*")
        if (path / "summary.json").exists() or (path / "records.jsonl").exists()
    ]
    if not found:
        raise InputError(
            "there is no run to report on",
            folder,
            "run python -m rfdetr_repro.reproduce, or give a folder with --run",
        )
    return max(found, key=lambda path: max(file.stat().st_mtime for file in path.iterdir()))
