"""Metrics of text and of any tokens.

Every file is a component, but for the shared parts: `moments`, `ngrams`.
"""
