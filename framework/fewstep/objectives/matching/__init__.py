"""Shared parts of objectives that match a student's distribution to its teacher's.

No file is a component.
"""
