"""Noise inputs: fresh noise into a student.

Every file is a component, but for the shared parts: `base`.
"""
