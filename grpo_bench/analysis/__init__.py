"""From stored results to pictures; nothing here runs a network."""
