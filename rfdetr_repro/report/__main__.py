"""``python -m rfdetr_repro.report``: the report of a run as PDF and HTML."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.report.command")

if __name__ == "__main__":
    main.run()
