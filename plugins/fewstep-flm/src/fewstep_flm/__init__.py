"""Importing this registers the process `onehot_gaussian`, the objective `flow_map` and the sampler `flow_map`."""

from fewstep_flm.flow_map import FlowMap
from fewstep_flm.onehot_gaussian import OneHotGaussian
from fewstep_flm.sampler import FlowMapSampler

__all__ = ["FlowMap", "FlowMapSampler", "OneHotGaussian"]
