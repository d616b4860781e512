"""A run as a folder that samples without the run and without its data.

No file is a component.
"""
