"""Metrics: samples, or what draws them, to numbers.

No file is a component.
"""
