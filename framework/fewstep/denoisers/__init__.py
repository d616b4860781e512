"""Networks of roles: backbone, process and adapters to a prediction, a class or a reconstruction; and what guides them.

No file is a component.
"""
