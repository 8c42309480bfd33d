"""Average precision: the evaluator, matches per image, and predictions of a model on splits and
pictures.
"""
