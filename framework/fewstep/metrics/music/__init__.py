"""Metrics of music.

Every file is a component, but for the shared parts: `chords`.
"""
