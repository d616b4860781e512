"""A study of data of one's own: data are looked at, networks and trainings sized, and recipes and a suite written.

No file is a component.
"""
