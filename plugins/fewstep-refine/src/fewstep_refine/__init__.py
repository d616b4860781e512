"""Importing this registers the samplers `refine_confidence` and `refine_entropy`."""

from fewstep_refine.by_confidence import RefineByConfidence
from fewstep_refine.by_entropy import RefineByEntropy

__all__ = ["RefineByConfidence", "RefineByEntropy"]
