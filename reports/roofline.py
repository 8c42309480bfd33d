"""``python -m reports.roofline``: the roofline figure of a benchmark run; see
:mod:`rfdetr_repro.report.roofline`.
"""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.report.roofline_command")

if __name__ == "__main__":
    main.run()
