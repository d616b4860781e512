"""Objectives: losses over roles, for teacher training and distillation.

Every file is a component, but for the shared parts: `base`.
"""
