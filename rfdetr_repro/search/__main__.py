"""``python -m rfdetr_repro.search``: the frontier of a trained supernet."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.search.command")

if __name__ == "__main__":
    main.run()
