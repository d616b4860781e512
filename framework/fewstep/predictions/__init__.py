"""What a network says of the clean tokens, kept lazily, and how it is shaped and drawn from.

No file is a component.
"""
