"""The GPU that is measured: which one, its load, its clocks and throttling."""
