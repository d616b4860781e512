"""Datasets: clean tokens, and how samples of them are shown.

No file is a component. `padding` says which tokens of a sample are text.
"""
