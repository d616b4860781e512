"""Backbones: networks from noised tokens to hidden states, independent of schedule and process.

Every file is a component, but for the shared parts: `attention`, `autoencoder`, `base`, `blockwise`, `flex`, `heads`,
`images`, `layers`, `transformer_config`, `trunk`.
"""
