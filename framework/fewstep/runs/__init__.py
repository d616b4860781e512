"""A run folder, an exported folder or file, and the networks and data that come out of them.

No file is a component.
"""
