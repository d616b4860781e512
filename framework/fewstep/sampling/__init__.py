"""A sampling job: batches kept as they are drawn, resumed, shared by processes, shown.

No file is a component.
"""
