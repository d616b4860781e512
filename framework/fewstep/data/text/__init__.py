"""Datasets of text.

Every file is a component, but for the shared parts: `mapped`.
"""
