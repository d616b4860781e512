"""Networks of roles: from backbone and adapters to a prediction, a class or a reconstruction; guidance and rewards.

No file is a component.
"""
