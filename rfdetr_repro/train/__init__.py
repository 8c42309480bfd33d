"""Training: matching, losses, optimizer groups, EMA, the step engine and its exact resume."""
