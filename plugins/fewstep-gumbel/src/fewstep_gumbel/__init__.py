"""Importing this registers the objective `gumbel` and the sampler `held_noise`."""

from fewstep_gumbel.condition import NoiseCondition, with_noise
from fewstep_gumbel.network import GumbelDenoiser
from fewstep_gumbel.noise import drawn_by, gumbel, posterior_gumbel
from fewstep_gumbel.objective import GumbelDistillation
from fewstep_gumbel.sampler import HeldNoise

__all__ = [
    "GumbelDenoiser",
    "GumbelDistillation",
    "HeldNoise",
    "NoiseCondition",
    "drawn_by",
    "gumbel",
    "posterior_gumbel",
    "with_noise",
]
