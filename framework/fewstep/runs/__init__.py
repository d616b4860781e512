"""Run folders, exported folders and files, and the networks and data that are read from them.

No file is a component.
"""
