"""Records, the store that holds them, and the statistics that are read from them. No torch here."""
