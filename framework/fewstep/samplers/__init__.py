"""Samplers: a denoiser to data, in a set number of network evaluations.

Every file is a component, but for the shared parts: `base`, `filling`, `joint`, `rates`, `walk`.
"""
