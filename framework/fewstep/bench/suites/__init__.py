"""The suite file: cases, sweeps, and what they need of the machine.

No file is a component.
"""
