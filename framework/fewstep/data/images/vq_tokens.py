"""Images as grids of codes of a trained tokenizer.

Shapes: N images, C, H, W channels, height and width, T = h w tokens: the grid of codes, row by row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder
from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig, Strict
from fewstep.core.errors import FewstepError, OperationError, UnfitModelError, UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Ref
from fewstep.data.base import DATASETS, Codec, DataSpec, Samples, fingerprint_of
from fewstep.data.images.base import ImageDataset, image_data
from fewstep.data.images.pixels import shaded
from fewstep.data.images.tokenizer import ImageTokenizer
from fewstep.runtime.files import publish
from fewstep.runtime.progress import Narrator
from fewstep.runtime.sealed import load_sealed, save_sealed

_FORMAT = "fewstep-vq-tokens/1"
_WEIGHTS = "tokenizer.safetensors"
_AT_ONCE = 1024
"""Images per block that are in memory as floats."""


class ImageTokenizerSection(Strict):
    """A trained image tokenizer."""

    run: Annotated[str, Ref("run", weights_key="weights")] = Field(
        description="run folder or exported model of a tokenizer; `runs/NAME/latest` is NAME's newest run"
    )
    weights: Literal["ema", "raw"] = Field("ema", description="which of its weights to use")


@DATASETS.register("vq_tokens")
class VqTokens(ImageDataset):
    """Images as codes of a trained tokenizer (objective `vq`): short samples, which the tokenizer decodes to pictures.

    Images are encoded once. The codes are stored in the tokenizer's run, under a digest of its weights and the images.
    Metrics compare decoded samples with the original images, not with their reconstructions. Labels are those of the
    images. An export contains the tokenizer.

    Raises:
        UserError: the tokenizer does not exist or is for other images, or the images change at random.
    """

    labelled = True

    class Config(ComponentConfig):
        type: Literal["vq_tokens"] = "vq_tokens"
        images: Annotated[ComponentConfig, From("datasets", leaf=True)] = Field(
            description="the images: any image data"
        )
        tokenizer: ImageTokenizerSection = Field(description="what encodes them")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            images = DATASETS.get(self.images.type).cls
            if images.kind != "image" or issubclass(images, VqTokens):
                yield "images", f"'{self.images.type}' are no images of pixels; name data that are, such as digits"
            elif recipe.label_input is not None and not images.labelled:
                yield "images", f"'{self.images.type}' have no labels, which label_input asks for"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.images = image_data(DATASETS.build(self.config.images, opener=self.opener))
        if self.images.augments:
            raise UserError(
                "data.images: these images are encoded once, so that they cannot change at random; leave out what "
                "changes them (the tokenizer's own recipe may have it)"
            )
        self.tokenizer, folder = self._open_tokenizer()
        self.labels, self.remark = self.images.labels, self.images.remark
        (height, width), codes = self.tokenizer.grid, self.tokenizer.codes
        self.spec = DataSpec(codes, height * width, (height, width, 1))
        cache = _CodeCache(folder / "tokens", self.tokenizer, self.images)
        self.train, self.held_out = cache.read() or cache.fill()

    def _open_tokenizer(self) -> tuple[ImageTokenizer, Path]:
        """The tokenizer of the settings, for these images, and the folder of files derived from it."""
        try:
            model = self.open_model("tokenizer.run", dataset=self.images, refuses=_refuses_as_tokenizer)
        except UnfitModelError as error:
            message = f"'{self.config.tokenizer.run}' does not fit {_size(self.images.spec)}"
            raise UserError(f"data.tokenizer.run: {message} ({error})") from None
        except FewstepError as error:
            raise UserError(f"data.tokenizer.run: {error}") from None
        return ImageTokenizer(model.network.backbone), model.derived

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the training tokens and of the tokenizer that decodes them."""
        return hashlib.sha256(f"{fingerprint_of(self.train)}/{self.tokenizer.digest}".encode()).hexdigest()

    def codec(self) -> Codec:
        values = {**self.tokenizer.description(), "tokenizer_digest": self.tokenizer.digest}
        return Codec(values, {_WEIGHTS: self.tokenizer.weights()})

    def restore(self, codec: Codec) -> None:
        self.tokenizer = ImageTokenizer.restore(codec.values, codec.files[_WEIGHTS])

    def to_images(self, samples: Tensor) -> Tensor:
        return self.tokenizer.decode(samples)

    def originals(self, rows: slice | Tensor, *, held_out: bool = False) -> Tensor:
        if not self.has_data:
            return super().originals(rows, held_out=held_out)
        return self.images.originals(rows, held_out=held_out)

    def to_text(self, samples: Tensor) -> list[str]:
        return shaded(self.to_images(samples).mean(1))


def _refuses_as_tokenizer(recipe: RecipeView) -> str | None:
    """Reason why a model is no image tokenizer; None if it is one."""
    if issubclass(BACKBONES.get(recipe.backbone.type).cls, Autoencoder):
        return None
    return "is no image tokenizer; train one with objective vq"


def _size(spec: DataSpec) -> str:
    assert spec.grid is not None
    height, width, channels = spec.grid
    return f"images of {height} x {width} pixels and {channels} channel{'s' * (channels > 1)}"


class _CodeCache:
    """Codes of images on disk: a file that is complete or missing, named by a digest of all that it depends on."""

    def __init__(self, folder: Path, tokenizer: ImageTokenizer, images: ImageDataset) -> None:
        self.tokenizer, self.images = tokenizer, images
        held_out = None if images.held_out is None else fingerprint_of(images.held_out)
        facts = [_FORMAT, tokenizer.digest, tokenizer.description(), images.fingerprint, held_out]
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.file = folder / f"{self.key[:16]}.safetensors"

    def read(self) -> tuple[Tensor, Tensor | None] | None:
        """Codes of training and held-out images; None if the file is missing or damaged."""
        if not self.file.is_file():
            return None
        try:
            codes, metadata = load_sealed(self.file, "it is encoded again")
        except OperationError:
            return None
        return (codes["train"], codes.get("held_out")) if metadata.get("key") == self.key else None

    def fill(self) -> tuple[Tensor, Tensor | None]:
        """Encode all images, and store the codes if the folder is writable."""
        train = self._encode(self.images.train, "encoding images")
        held_out = self.images.held_out
        tests = None if held_out is None else self._encode(held_out, "encoding held-out images")
        parts = {"train": train} if tests is None else {"train": train, "held_out": tests}
        partial = self.file.with_name(f".{self.file.name}-{secrets.token_hex(4)}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_sealed(parts, partial, {"key": self.key})
            publish(partial, self.file)
        except OSError:  # another person's run is not writable: the next start encodes again
            with contextlib.suppress(OSError):
                partial.unlink()
        return train, tests

    def _encode(self, samples: Samples, label: str) -> Tensor:
        """Codes [N, T] of image tokens [N, L], as bytes if they fit."""
        progress, parts = Narrator(label), []
        for first in range(0, len(samples), _AT_ONCE):
            images = self.images.to_images(samples[first : first + _AT_ONCE])
            codes = self.tokenizer.encode(images)
            progress(first + len(images), len(samples))
            parts.append(codes.to(torch.uint8 if self.tokenizer.codes <= 256 else torch.long))
        return torch.cat(parts)
