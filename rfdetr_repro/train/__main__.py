"""``python -m rfdetr_repro.train``: trains a supernet, or one fixed size."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.train.command")

if __name__ == "__main__":
    main.run()
