"""A suite at work: its plan, its tasks and processes, the rows that it measures.

No file is a component.
"""
