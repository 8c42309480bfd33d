"""``python -m rfdetr_repro.finetune``: trains one found architecture after the search."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.search.finetune")

if __name__ == "__main__":
    main.run()
