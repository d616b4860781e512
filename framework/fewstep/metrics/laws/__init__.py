"""Metrics against a known distribution, and of a model's likelihood.

Every file is a component.
"""
