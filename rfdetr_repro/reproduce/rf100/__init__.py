"""The RF100-VL flow: many data sets, each with its own training, search and fine-tuning, and what
search and fine-tuning gain over one fixed architecture.
"""
