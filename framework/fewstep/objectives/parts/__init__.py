"""What objectives share otherwise.

No file is a component.
"""
