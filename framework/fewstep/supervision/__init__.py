"""Supervision: the tokens that a training step's losses count.

Every file is a component, but for the shared parts: `base`.
"""
