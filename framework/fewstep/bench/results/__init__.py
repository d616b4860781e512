"""The file of results: rows, summaries over seeds, verdicts.

No file is a component.
"""
