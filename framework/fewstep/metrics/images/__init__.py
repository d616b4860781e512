"""Metrics of images.

Every file is a component, but for the shared parts: `feature_manifold`, `features`, `manifolds`.
"""
