"""``python -m rfdetr_repro.bench``: accuracy and latency Records of artifacts."""

from __future__ import annotations

from rfdetr_repro.spec.launch import Program

main = Program("rfdetr_repro.bench.command.run")

if __name__ == "__main__":
    main.run()
