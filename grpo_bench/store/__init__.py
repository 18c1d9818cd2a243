"""The on-disk format: one run writes its folder, many readers read it; every file is whole at every moment."""
