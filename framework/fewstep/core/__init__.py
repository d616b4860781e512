"""Names and settings: components, registries, plugins, references, errors. Imports no torch.

No file is a component.
"""
