"""``python -m rfdetr_repro.reproduce.rf100``: see :mod:`.command`."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.reproduce.rf100.command")

if __name__ == "__main__":
    main.run()
