"""Noise schedules: alpha(t), how much of the data is left.

Every file is a component, but for the shared parts: `base`.
"""
