"""How the built-in models are made: untrained parts, the training loops, and the folder that is written in the end."""
