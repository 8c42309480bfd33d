"""The part of an HTML report in which the reader chooses axes, filters and a latency budget."""
