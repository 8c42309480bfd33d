"""``python -m rfdetr_repro.reproduce``: the whole flow, from data to report."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.reproduce.command")

if __name__ == "__main__":
    main.run()
