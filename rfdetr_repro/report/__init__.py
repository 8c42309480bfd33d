"""The report of a run as PDF and HTML, read from its Records. No torch here."""
