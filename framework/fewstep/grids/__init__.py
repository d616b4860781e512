"""Step grids: the times of a sampler's steps.

Every file is a component, but for the shared parts: `base`, `files`, `search`.
"""
