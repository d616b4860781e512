"""The machine: random streams, devices, files, digests, memory, progress, the Hub.

No file is a component.
"""
