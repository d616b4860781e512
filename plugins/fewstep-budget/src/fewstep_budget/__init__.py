"""Importing this registers the objective `step_budget` and the sampler `cumulative`."""

from fewstep_budget.jump import cumulative_jump
from fewstep_budget.objective import StepBudget
from fewstep_budget.sampler import CumulativeSampler
from fewstep_budget.stages import runge_kutta

__all__ = ["CumulativeSampler", "StepBudget", "cumulative_jump", "runge_kutta"]
