"""What is computed in which precision: the table of docs/precision.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.backbones import dit, layers
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.denoising import Denoising
from fewstep.predictions import draws
from fewstep.processes.base import PROCESSES
from fewstep.recipe import load_recipe
from fewstep.recipe.loading import load_run_recipe
from fewstep.runs.folder import RunDir
from fewstep.runtime.precision import resolve_precision, tf32
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep.training.launch import fit
from fewstep.training.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def denoiser(name: str, **options: Any) -> NetworkDenoiser:
    process = PROCESSES.build("masked", vocab_size=6)
    config = {"type": name, "width": 16, "depth": 2, "heads": 2, "time_conditioned": True, **options}
    return NetworkDenoiser(BACKBONES.build(config, tokens=TokenSpace(7, 6, 8)), process)


@pytest.mark.parametrize("name", ["transformer", "dit"])
@pytest.mark.parametrize("stream", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_networks(name: str, stream: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, dtypes = denoiser(name, residual_stream=stream), dict[str, Any]()
    block, backbone = network.backbone.layers()[-1], network.backbone
    block.register_forward_pre_hook(lambda m, args: dtypes.update(stream=args[0].dtype))
    backbone.head.register_forward_hook(lambda m, args, out: dtypes.update(logits=out.dtype))
    final = backbone.norm if name == "transformer" else backbone.output_layer.norm_final
    final.register_forward_hook(lambda m, args, out: dtypes.update(norm=out.dtype))
    monkeypatch.setattr(dit, "sinusoids", _noting(layers.sinusoids, dtypes, "time"))
    monkeypatch.setattr(layers, "sinusoids", _noting(layers.sinusoids, dtypes, "time"))
    x = torch.full((2, 8), 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        prediction = network(x, torch.rand(2))
        loss, rows = prediction.nll(torch.zeros_like(x)).mean(), prediction.log_probs()
    loss.backward()
    assert dtypes["logits"] == PRECISIONS[precision]
    assert dtypes["stream"] == (torch.bfloat16 if stream == precision == "bf16" else torch.float32)
    assert dtypes["time"] == torch.float32
    assert dtypes["norm"] == dtypes["stream"], "a GPU's autocast gives float32; all kernels compute in it"
    assert rows.dtype == loss.dtype == torch.float32
    assert backbone.rotations.dtype == torch.float32
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
    if name == "dit":
        assert backbone.sigma_map(torch.rand(2)).dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training(precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses: list[Tensor] = []
    plain = Denoising.loss
    monkeypatch.setattr(Denoising, "loss", lambda *args: losses.append((out := plain(*args)).loss) or out)
    recipe = load_recipe("smoke-teacher", ["train.steps=2", f"train.precision={precision}"]).recipe
    trainer = Trainer.from_recipe(recipe, RunDir.create("run", tmp_path / "run"), echo=lambda line: None)
    trainer.fit()
    assert {loss.dtype for loss in losses} == {torch.float32}
    state = trainer.state_dict()
    kept = {**trainer.ema.weights, **trainer.roles["student"].state_dict()}
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    assert {value.dtype for value in _tensors(state["optimizers"])} == {torch.float32}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_draws(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that choose tokens, and the running sums that they are compared with, are float64."""
    dtypes: set[torch.dtype] = set()
    plain = torch.searchsorted
    monkeypatch.setattr(
        draws.torch, "searchsorted", lambda a, b, **k: dtypes.update((a.dtype, b.dtype)) or plain(a, b, **k)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        SAMPLERS.build("ancestral").sample(denoiser("transformer"), 2, steps=2, generator=SampleStreams(0, range(2)))
    assert dtypes == {torch.float64}


@pytest.mark.parametrize(("has", "device", "name"), [(True, GPU, "bf16"), (False, GPU, "fp32"), (True, CPU, "fp32")])
def test_auto_is_bf16_where_a_gpu_has_it(
    has: bool, device: torch.device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert resolve_precision("auto", device) == name
    assert resolve_precision("fp32", device) == "fp32"
    assert resolve_precision("bf16", device) == "bf16"


def test_a_run_says_what_auto_meant_and_stays_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, loaded = RunDir(tmp_path / "run"), load_recipe("smoke-teacher", ["train.steps=2"])
    assert loaded.recipe.train.precision == "auto"
    fit(loaded, run, echo=lambda line: None)
    assert load_run_recipe(run.resolved).train.precision == "fp32"
    monkeypatch.setattr("fewstep.training.launch.resolve_precision", lambda name, device: "bf16")  # another device
    fit(load_recipe("smoke-teacher", ["train.steps=3"]), run, echo=lambda line: None)
    assert load_run_recipe(run.resolved).train.precision == "fp32"


def test_tf32_ends_with_its_context() -> None:
    """Both of torch's flags are set: parts of it read the older one."""
    before = torch.get_float32_matmul_precision()
    with tf32(GPU):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    with tf32(CPU):
        assert torch.get_float32_matmul_precision() == before


def _noting(fn: Any, dtypes: dict[str, Any], key: str) -> Any:
    def noting(*args: Any, **kwargs: Any) -> Tensor:
        out = fn(*args, **kwargs)
        dtypes[key] = out.dtype
        return out

    return noting


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
