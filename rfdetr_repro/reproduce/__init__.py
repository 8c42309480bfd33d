"""The whole flow: data, training, search, artifacts, measurement, report."""
