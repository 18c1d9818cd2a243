"""One file a model family: what the engine needs of a diffusers pipeline."""
