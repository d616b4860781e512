"""Objectives: losses over roles. Teacher training and distillation are both.

Every file is a component, but for the shared parts: `base`.
"""
