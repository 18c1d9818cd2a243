"""What a run is run on: a model, prompts, a gold reward, defaults and a budget."""
