"""The paper's figures and a campaign's own, drawn from stored numbers. No torch here."""
