"""``python -m rfdetr_repro.data.domains``: writes the data sets of embedded-10."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.data.domains.command")

if __name__ == "__main__":
    main.run()
