"""``python -m rfdetr_repro.baselines``: the detectors that can be measured by name."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.baselines.command")

if __name__ == "__main__":
    main.run()
