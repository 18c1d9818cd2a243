"""What a person sees in the terminal: the live display of a run on stderr, the tables of results on stdout."""
