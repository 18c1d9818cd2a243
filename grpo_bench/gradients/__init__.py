"""Gradients of methods and of the deployed objective at one policy, and where the reward is decided on the way."""
