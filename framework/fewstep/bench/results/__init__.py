"""Results of a suite: their file, summaries over seeds, verdicts.

No file is a component.
"""
