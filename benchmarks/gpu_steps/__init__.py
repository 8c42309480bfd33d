"""The steps of ``benchmarks/gpu.py``, a program each: a step reads nothing that another step wrote,
writes its Records at once, and can be run alone.

    python -m benchmarks.gpu_steps.operators --out results/gpu/operators.jsonl
"""
