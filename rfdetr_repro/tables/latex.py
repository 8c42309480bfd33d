r"""A table as LaTeX that can be pasted into a paper: one ``table`` with the rules of booktabs.

The document needs ``\usepackage{booktabs,graphicx}`` and nothing else; pdfLaTeX, XeLaTeX and
LuaLaTeX compile the table. A table that is wider than the page is scaled down to its width. Notes
are comments below it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .table import COMPUTED, MEASURED, Cell, Table, one_line, section_starts
from .text import group_spans

WIDE = 8  # a table with more columns spans both columns of a page

_TEX = {
    "\\": "\\textbackslash{}",
    "·": "$\\cdot$",
    "×": "$\\times$",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "−": "$-$",
    "Δ": "$\\Delta$",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": "\\textbar{}",
    "≈": "$\\approx$",
    "≠": "$\\neq$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "→": "$\\rightarrow$",
    "–": "--",
    "—": "---",
    "…": "\\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    '"': "''",
}
_TEX.update({mark: f"\\{mark}" for mark in "&%$#_{}"})


def latex_of(table: Table) -> str:
    """The table as a float with caption and label."""
    spans = group_spans(table.columns)
    alignment = "".join("r" if column.right else "l" for column in table.columns)
    kind = "table*" if len(table.columns) > WIDE else "table"
    lines = [
        f"% {table.title}",
        "% needs \\usepackage{booktabs,graphicx}",
        f"\\begin{{{kind}}}",
        "\\centering",
        f"\\caption{{{tex(table.title)}}}",
        f"\\label{{tab:table-{_label(table.name)}}}",
        "\\small",
        "\\setlength{\\tabcolsep}{3pt}",
        # the box 0 is free for any use; its width decides whether the table is scaled down
        f"\\setbox0\\hbox{{\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        *_groups(spans),
        _row([tex(column.label) for column in table.columns]),
        "\\midrule",
    ]
    for number, ((section, starts), row) in enumerate(
        zip(section_starts(table), table.rows, strict=True)
    ):
        if starts:
            lines += ["\\midrule"] * bool(number)
            heading = f"\\multicolumn{{{len(table.columns)}}}{{l}}{{\\emph{{{tex(section)}}}}}"
            lines.append(f"{heading} \\\\")
        lines.append(_row(_typed(table, row)))
    lines += [
        "\\bottomrule",
        "\\end{tabular}}%",
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\box0}\\else\\box0\\fi",
        f"\\end{{{kind}}}",
    ]
    return "\n".join([*lines, *(f"% {note}" for note in table.notes), ""])


def _groups(spans: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    """The line of the groups' names, and a short rule below each."""
    if not any(group for group, _ in spans):
        return []
    names = [
        f"\\multicolumn{{{len(span)}}}{{c}}{{{tex(group)}}}" if group else " & " * (len(span) - 1)
        for group, span in spans
    ]
    rules = [f"\\cmidrule(lr){{{span[0] + 1}-{span[-1] + 1}}}" for group, span in spans if group]
    return [f"{' & '.join(names)} \\\\", " ".join(rules)]


def _typed(table: Table, row: dict[str, Cell]) -> list[str]:
    """The row's texts; beside published numbers, measured numbers are bold and computed ones are
    emphasised.
    """
    kinds = {MEASURED: "\\textbf{{{}}}", COMPUTED: "\\emph{{{}}}"} if table.mixed else {}
    cells = [row.get(column.key, Cell()) for column in table.columns]
    return [
        kinds.get(cell.state if cell.text else "", "{}").format(tex(cell.shown)) for cell in cells
    ]


def _row(cells: Sequence[str]) -> str:
    """Cells as a LaTeX row; a first cell such as "[1]" is guarded, so that LaTeX does not read it
    as an option of the row before.
    """
    guard = "{}" if cells and cells[0][:1] in ("[", "*") else ""
    return f"{guard}{' & '.join(cells)} \\\\"


def _label(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def tex(text: str) -> str:
    """``text`` with every character that LaTeX would act upon escaped."""
    return "".join(_TEX.get(letter, letter) for letter in one_line(text))
