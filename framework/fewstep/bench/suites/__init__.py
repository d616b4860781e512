"""The suite file: cases, sweeps, and their needs of the machine.

No file is a component.
"""
