"""Samplers: they draw data from a denoiser, in a set number of network evaluations.

Every file is a component, but for the shared parts: `base`, `filling`, `in_blocks`, `inner`, `joint`, `rates`, `walk`.
"""
