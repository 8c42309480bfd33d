"""``python -m rfdetr_repro.tables``: prints published and measured values."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.tables.command")

if __name__ == "__main__":
    main.run()
