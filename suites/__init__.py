"""Suites and recipes, as TOML package data."""
