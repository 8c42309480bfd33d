"""Export: from a PyTorch subnet to the one file that is measured, with its manifest."""
