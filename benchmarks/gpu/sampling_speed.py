"""Part 3: speed of sampling a text backbone, and of a sampling step beside a bare forward pass.

The forward pass is trunk, and head at all tokens. It is compiled as the sampler's is. Times do not depend on weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from cases import Case, Outcome, Setting
from measuring import seconds
from networks import network, process_of
from training_speed import LARGE, sizes

from fewstep.denoisers.compiled import compile_trunks
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw_batch

STEPS = (4, 8, 16, 32)


def cases(setting: Setting) -> Iterator[Case]:
    """Both processes, plain and with CUDA graphs."""
    for mode in ("off", "trunk"):
        for process in ("masked", "uniform"):
            if not (setting.short and (process, mode) == ("uniform", "trunk")):
                yield Case(name(process, mode), 12 if mode == "off" else 35, partial(draw, setting, process, mode))


def name(process: str, mode: str) -> str:
    """Name of a case."""
    return f"{process}, {'CUDA graphs' if mode == 'trunk' else 'plain'}"


@torch.no_grad()
def draw(setting: Setting, process: str, mode: str) -> Outcome:
    """Tokens a second by number of steps; the time of a step over that of a forward pass."""
    s, device = sizes(setting), setting.device
    model = network(s.shapes[LARGE], process_of(process, s.vocab), s.length, device).eval()
    compile_trunks(model, mode, device, "the network", setting.say, graphs=True)  # type: ignore[arg-type]
    sampler, batch = SAMPLERS.build("ancestral"), s.batch
    x = model.process.prior((batch, s.length), device=device, generator=None)
    t = torch.full((batch,), 0.5, device=device)
    with torch.autocast(device.type, torch.bfloat16):

        def forward() -> None:
            model.backbone.head(model.backbone(x, t))

        def sample(steps: int) -> None:
            draw_batch(sampler, model, range(batch), steps=steps, seed=0)

        for _ in range(3):
            forward()
        sample(2)
        bare = seconds(forward, device, calls=1 if setting.short else 5)
        times = {steps: seconds(partial(sample, steps), device, calls=1, windows=3) for steps in STEPS}
    rates = {str(steps): batch * s.length / time for steps, time in times.items()}
    ratios = {str(steps): time / steps / bare for steps, time in times.items()}
    text = "; ".join(f"{steps} NFE: {rates[steps]:,.0f} tokens/s, {ratios[steps]:.2f} of a forward" for steps in rates)
    values = {"forward_ms": 1e3 * bare, "tokens_per_second": rates, "ratios": ratios, "batch": batch}
    return Outcome(f"{text}; forward {1e3 * bare:,.1f} ms, batch {batch}", values)
