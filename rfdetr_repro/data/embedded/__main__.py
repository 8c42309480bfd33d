"""``python -m rfdetr_repro.data.embedded``: writes the embedded data set."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.data.embedded.command")

if __name__ == "__main__":
    main.run()
