"""The published numbers and which cell of which table each belongs to. No torch here."""
