"""An image tokenizer in training: an autoencoder in the place of a network that predicts tokens.

Shapes: B batch, L tokens, C, H, W channels, height and width of an image, h, w height and width of the grid of codes,
E width of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fewstep.backbones.autoencoder import Autoencoder, straight_through
from fewstep.denoisers.network import BackboneNetwork


@dataclass(frozen=True)
class Reconstruction:
    """Images and their reconstruction.

    Args:
        values: images [B, C, H, W] in [0, 1].
        output: reconstructed images, of the same shape.
        vectors: encoded images [B, h, w, E].
        codes: numbers of the codes nearest to `vectors` (LongTensor [B, h, w]).
    """

    values: Tensor
    output: Tensor
    vectors: Tensor
    codes: Tensor


class NetworkAutoencoder(BackboneNetwork):
    """A backbone that encodes clean images as codes and decodes them again."""

    backbone_type: ClassVar[type[nn.Module]] = Autoencoder
    description: ClassVar[str] = "An image tokenizer"
    refusal: ClassVar[str] = (
        "an image tokenizer draws no samples; name its run as `tokenizer.run` of data vq_tokens, and train on those"
    )
    next_step: ClassVar[str] = "name it in the data of another recipe, as `tokenizer: {{run: {run}}}` of type vq_tokens"
    backbone: Autoencoder

    def reconstruct(self, x0: Tensor) -> Reconstruction:
        """Reconstruct the images of clean tokens [B, L]; gradients pass straight through the choice of codes."""
        self._count(x0)
        values = self.backbone.values(x0)
        vectors = self.backbone.encode(values)
        codes = self.backbone.nearest(vectors.detach())
        output = self.backbone.decode(straight_through(vectors, self.backbone.codebook.detach()[codes]))
        return Reconstruction(values, output, vectors, codes)
