"""What is added to a backbone's residual stream: noise, the length of a step, a label.

No file is a component.
"""
