"""Images and annotations: COCO-format folders, the one resize, batches, and the embedded synthetic
set.
"""
