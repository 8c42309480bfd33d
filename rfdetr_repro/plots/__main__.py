"""``python -m rfdetr_repro.plots``: the figures of the paper and of a campaign."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.plots.command")

if __name__ == "__main__":
    main.run()
