"""Faster ways to compute the same function: folded copies for attacks, memory formats."""
