"""``python -m rfdetr_repro.export.tensorrt``: builds an engine from an artifact."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.export.tensorrt.command")

if __name__ == "__main__":
    main.run()
