"""Bounds on a model's likelihood, and autoregressive models that metrics ask.

No file is a component.
"""
