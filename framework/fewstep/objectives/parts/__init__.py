"""Other shared parts of objectives.

No file is a component.
"""
