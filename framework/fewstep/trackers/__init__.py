"""Trackers: where the numbers of a training go besides its run folder.

Every file is a component, but for the shared parts: `base`, `tracking`.
"""
