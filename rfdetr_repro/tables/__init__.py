"""The paper's tables, published beside measured, and a campaign's own. No torch here."""
