"""``python -m rfdetr_repro.mean``: means over the data sets of a benchmark."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.records.aggregate")

if __name__ == "__main__":
    main.run()
