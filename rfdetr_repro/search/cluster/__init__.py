"""Who does the work of a search: this process or the workers of a Ray cluster."""
