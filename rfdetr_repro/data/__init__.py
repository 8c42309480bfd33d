"""Images and annotations: readers of data sets, the way from a picture to a network's input,
batches, and the embedded synthetic set.
"""
