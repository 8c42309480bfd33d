"""``python -m rfdetr_repro.rivals``: see :mod:`.command`."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.rivals.command")

if __name__ == "__main__":
    main.run()
