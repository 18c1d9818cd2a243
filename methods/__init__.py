"""The built-in methods, one file each, through the public contract only."""
