"""Importing this registers the objective `soft_targets`."""

from fewstep_example_objective.soft_targets import SoftTargets

__all__ = ["SoftTargets"]
