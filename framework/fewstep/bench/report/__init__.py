"""Results to a page, tables and plots.

No file is a component.
"""
