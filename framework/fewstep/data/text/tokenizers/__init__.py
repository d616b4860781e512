"""Tokenizers: text to ids and back; they import no torch.

Every file is a component, but for the shared parts: `base`.
"""
