"""``python -m reports.build --run runs/NAME``: the report of a run as PDF and HTML; see
:mod:`rfdetr_repro.report.build`.
"""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.report.command")

if __name__ == "__main__":
    main.run()
