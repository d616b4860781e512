"""Datasets of images: pixels as tokens, or codes of a trained image tokenizer.

Every file is a component, but for the shared parts: `base`, `picture_files`, `pixels`, `tokenizer`.
"""
