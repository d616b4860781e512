"""Lazy predictions of the clean tokens, their shaping, and draws from them.

No file is a component.
"""
