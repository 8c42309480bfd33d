"""``python -m rfdetr_repro.seal``: which Records of a store are unaltered."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.records.seal")

if __name__ == "__main__":
    main.run()
