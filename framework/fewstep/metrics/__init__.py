"""Metrics: numbers that judge samples, or the model that draws them.

No file is a component.
"""
