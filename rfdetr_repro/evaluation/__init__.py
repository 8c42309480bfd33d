"""Average precision: the evaluator, matches kept per image, and predictions of a model on splits
and pictures.
"""
