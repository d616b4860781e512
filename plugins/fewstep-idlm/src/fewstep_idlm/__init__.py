"""Importing this registers the objective `inverse`."""

from fewstep_idlm.inverse import Inverse

__all__ = ["Inverse"]
