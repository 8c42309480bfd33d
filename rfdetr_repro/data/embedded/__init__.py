"""The embedded data set, composed from a few drawn objects and a seed."""
