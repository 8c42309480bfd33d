"""``python -m rfdetr_repro.claims``: the verdict of each claim of the paper."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.claims_command")

if __name__ == "__main__":
    main.run()
