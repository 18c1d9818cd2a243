"""The deployment sampler on held-out prompts, and what is measured on its images."""
