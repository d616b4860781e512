"""Adapters: inputs added to a backbone's residual stream, such as noise, the length of a step, or a label.

No file is a component.
"""
