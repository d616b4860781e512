"""The command line: arguments in, tables and one-sentence errors out; loads no torch before it has to.

No file is a component.
"""
