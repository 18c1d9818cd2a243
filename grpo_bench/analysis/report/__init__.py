"""The report: one HTML file that needs nothing else, made from stored runs."""
