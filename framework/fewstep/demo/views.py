"""Answers as HTML: a sheet of pictures or texts, a line of costs, and an animation; all within the page."""

from __future__ import annotations

import base64
import html
import io
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fewstep.demo.drawing import Answer
from fewstep.sampling.animation import Frame, animated_count, file_name
from fewstep.sampling.folder import GIF
from fewstep.sampling.sheets import image_sheet

_TEXTS = 16
"""Limit on the texts that are shown."""


def samples_html(answer: Answer) -> str:
    """The samples: one picture of all, or a block for each text."""
    pictures = answer.job.model.dataset.pictures(answer.tokens)
    if pictures is not None:
        return _picture(_png(image_sheet(pictures.float(), columns_of(len(pictures)))), "png", "samples")
    texts = answer.job.model.dataset.to_text(answer.tokens[:_TEXTS])
    return "".join(f'<pre class="fewstep-text">{html.escape(text)}</pre>' for text in texts)


def cost_html(answer: Answer) -> str:
    """Evaluations, seconds and sampler in one line."""
    nfe = f"{answer.nfe:g}"
    count, job = len(answer.tokens), answer.job
    return (
        f'<p class="fewstep-cost"><b>{nfe} evaluation{"" if nfe == "1" else "s"} a sample</b>, '
        f"{answer.seconds:.2f} s for {count} ({job.steps} steps, {html.escape(job.sampler.config.type)})</p>"
    )


def animation_html(answer: Answer) -> str:
    """How the samples came about: a moving picture, or a page that plays in a frame of its own."""
    dataset, count = answer.job.model.dataset, len(answer.tokens)
    shown = animated_count(dataset, count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / file_name(dataset)
        frames = [Frame(frame.t, frame.x[:shown]) for frame in answer.frames]
        answer.job.animate(file, frames, range(shown), columns_of(shown))
        content = file.read_bytes()
    if file.name == GIF:
        return _picture(content, "gif", "animation of the samples")
    page = html.escape(content.decode(), quote=True)
    return f'<iframe class="fewstep-steps" title="animation" sandbox="allow-scripts" srcdoc="{page}"></iframe>'


def columns_of(count: int) -> int:
    """Columns of a sheet that is about as wide as high, since it stands beside others."""
    return math.ceil(math.sqrt(count))


def _png(sheet: Tensor) -> bytes:
    """A picture, float [3, H, W] in [0, 1]."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = (sheet * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _picture(content: bytes, kind: str, description: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img class="fewstep-picture" alt="{description}" src="data:image/{kind};base64,{data}">'
