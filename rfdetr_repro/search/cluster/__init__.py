"""Workers of a search: this process, or processes of a Ray cluster."""
