"""``python -m rfdetr_repro.export``: exports a checkpoint as an artifact with its manifest."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.export_command")

if __name__ == "__main__":
    main.run()
