"""Pictures as bytes.

Shapes: H, W height and width.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def as_pixels(image: Tensor) -> np.ndarray:
    """A picture, float [3, H, W] in [0, 1], as bytes [H, W, 3]."""
    pixels: np.ndarray = image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return pixels
