"""Backbones: noised tokens to hidden states; they know no schedule and no process.

Every file is a component, but for the shared parts: `attention`, `autoencoder`, `base`, `blockwise`, `heads`, `images`,
`layers`, `packing`, `transformer_config`, `trunk`.
"""
