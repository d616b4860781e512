"""Running a suite: its plan, tasks and processes, and the rows that it measures.

No file is a component.
"""
