"""Documents to shards of tokens on disk, in several processes, resumable.

No file is a component.
"""
