"""Values of metrics for a trained run, and the search for its step grid.

No file is a component.
"""
