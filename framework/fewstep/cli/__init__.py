"""The command line: arguments, tables, and errors of one sentence. It loads torch only when a command needs it.

No file is a component.
"""
