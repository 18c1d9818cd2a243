"""Suites: from a TOML file to runs, what of them is there already, what the rest will cost, and their execution."""
