"""Training of a run from its parts: the loop, optimisers, averages, batches and logs.

No file is a component.
"""
