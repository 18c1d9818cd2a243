"""The built-in rewards, one file each, through the public contract only."""
