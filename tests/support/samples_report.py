"""Shared by ``test_report.py`` and others: everything."""

from __future__ import annotations

from rfdetr_repro.report.blocks import Document, Facts, Grid


def everything(document: Document) -> str:
    """All words of a document."""
    words = []
    for block in document.blocks:
        if isinstance(block, Facts):
            words += [f"{name}: {value}" for name, value in block.pairs]
        elif isinstance(block, Grid):
            words += [
                block.table.title,
                *block.table.notes,
                *(" ".join(block.table.line(row)) for row in block.table.rows),
            ]
        else:
            words += [
                str(getattr(block, name))
                for name in ("text", "subtitle", "items", "caption")
                if hasattr(block, name)
            ]
    return "\n".join(words)
