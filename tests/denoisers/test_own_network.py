"""A network of a plugin with a second head: trained, averaged, exported, opened and resumed without an edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fewstep.export.write import export_run
from fewstep.objectives.base import OBJECTIVES
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.testing import check_objective
from fewstep.training.launch import launch

PLUGIN = '''
"""A denoiser that also says how noised each token's sample is, and the objective that trains it."""
from typing import ClassVar, Literal

from torch import nn

from fewstep import OBJECTIVES, ComponentConfig, LossOutput, NetworkDenoiser, Objective, RoleSpec


class TwoHeads(NetworkDenoiser):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.level = nn.Linear(self.backbone.width, 1)

    def levels(self, prediction):
        return self.level(prediction.hidden).squeeze(-1)


@OBJECTIVES.register("two_heads")
class Trained(Objective):
    """Cross entropy, and the squared error of the level."""

    roles: ClassVar = {"student": RoleSpec(network=TwoHeads)}

    class Config(ComponentConfig):
        type: Literal["two_heads"] = "two_heads"

    def loss(self, phase, batch, ctx):
        t = ctx.sample_time(batch.size)
        noised = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
        prediction = ctx.roles["student"](noised.x_t, t)
        error = (ctx.roles["student"].levels(prediction) - t[:, None]) ** 2
        return LossOutput(ctx.mean(prediction.nll(batch.x0)) + ctx.mean(error))
'''

RECIPE = """
name: two
plugins: [./mine.py]
data: {type: markov, vocab_size: 4, length: 6, size: 64}
process: masked
backbone: {type: transformer, width: 16, depth: 1, heads: 2}
objective: two_heads
train: {steps: 6, batch_size: 8, checkpoint_every: 3, device: cpu}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "two.yaml").write_text(RECIPE)
    return str(tmp_path / "two.yaml")


def test_a_second_head_lives_with_its_network(recipe: str, tmp_path: Path) -> None:
    with OBJECTIVES.snapshot():
        run = launch(recipe, run_dir=str(tmp_path / "run"))
        averaged, raw = open_model(run, device="cpu"), open_model(run, weights="raw", device="cpu")
        assert type(averaged.network).__name__ == "TwoHeads"
        level = averaged.network.get_parameter("level.weight")
        assert not torch.equal(level, raw.network.get_parameter("level.weight")), "it is averaged"
        # The run died after half of its steps.
        shutil.copytree(run, tmp_path / "resumed")
        resumed = RunDir(tmp_path / "resumed")
        last = resumed.last_checkpoint()
        assert last is not None
        shutil.rmtree(last)
        launch(recipe, resume=str(resumed.path))
        again = open_model(resumed.path, device="cpu").network.state_dict()
        assert all(torch.equal(again[name], weight) for name, weight in averaged.network.state_dict().items())
        # Exported, opened and sampled.
        folder = export_run(str(run), str(tmp_path / "out"))
        assert torch.equal(open_model(folder, device="cpu").network.get_parameter("level.weight"), level)
        assert sample_run(str(folder), SampleRequest(4, steps=2)).is_file()
        # Another training starts from it, the second head too.
        sets = [f"start_from.student={run}", "train.steps=1", "optim.lr=1e-12"]
        begun = open_model(launch(recipe, run_dir=str(tmp_path / "begun"), sets=sets), weights="raw", device="cpu")
        torch.testing.assert_close(begun.network.get_parameter("level.weight"), level, atol=1e-6, rtol=0)
        check_objective("two_heads", processes=("masked",))
