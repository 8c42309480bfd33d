"""Speed: pytest-benchmark files here, studies that take longer in ``studies/``, and ``gpu.py`` for
a CUDA machine.
"""
