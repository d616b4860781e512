"""Bounds on a model's likelihood, and autoregressive reference models of metrics.

No file is a component.
"""
