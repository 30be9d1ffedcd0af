"""Reclaiming disk: find what is redundant, prove that the store gives it back, then take it away."""
