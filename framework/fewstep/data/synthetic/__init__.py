"""Datasets whose distribution is known in closed form.

Every file is a component, but for the shared parts: `source`.
"""
