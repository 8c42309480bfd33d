"""The RF100-VL flow: many data sets, each with its own training, search and fine-tuning, and what
that gains over one fixed architecture.
"""
