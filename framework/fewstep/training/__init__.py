"""From parts to a trained run: the loop, its optimisers, averages, batches and logs.

No file is a component.
"""
