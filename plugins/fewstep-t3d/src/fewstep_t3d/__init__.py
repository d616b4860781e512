"""Importing this registers the objective `ddo`."""

from fewstep_t3d.ddo import DirectDiscriminative

__all__ = ["DirectDiscriminative"]
