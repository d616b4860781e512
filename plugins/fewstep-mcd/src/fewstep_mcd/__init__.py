"""Masked consistency distillation: the Gaussian coupling of its paper; the objective is fewstep's `consistency`."""

from fewstep_mcd.coupling import gaussian_pair, thresholds

__all__ = ["gaussian_pair", "thresholds"]
