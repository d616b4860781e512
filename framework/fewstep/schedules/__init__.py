"""Noise schedules: alpha(t), the share of the data that is left at time t.

Every file is a component, but for the shared parts: `base` and `gaussian_dual`.
"""
