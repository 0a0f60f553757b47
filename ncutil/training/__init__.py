"""Thousands of small networks trained at once: `ensembles`, and the compiled vector programs behind it."""
