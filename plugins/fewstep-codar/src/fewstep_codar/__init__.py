"""Importing this registers a process, two objectives and a sampler (CoDAR, arXiv 2603.02547)."""

from fewstep_codar.embedding_denoising import EmbeddingDenoising
from fewstep_codar.embedding_gaussian import EmbeddingGaussian
from fewstep_codar.rounding_decoder import RoundingDecoder
from fewstep_codar.sampler import ContextualRounding

__all__ = ["ContextualRounding", "EmbeddingDenoising", "EmbeddingGaussian", "RoundingDecoder"]
