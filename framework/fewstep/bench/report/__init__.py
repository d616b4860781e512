"""Reports of results: a page, tables and plots.

No file is a component.
"""
