"""Rewards that need packages of their own: an environment made on demand, and a worker process in it that stays."""
