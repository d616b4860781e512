"""The objective keeps fewstep's contract, reaches its optimum, and refuses what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep import OBJECTIVES, PROCESSES
from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.objectives.base import Batch, LossOutput, StepContext
from fewstep.predictions.base import Prediction
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import shape
from fewstep.recipe import load_recipe
from fewstep.testing.objectives import check_objective

RECIPE = Path(__file__).parents[1] / "recipes/soft-targets.yaml"


@pytest.mark.parametrize("config", ["soft_targets", {"type": "soft_targets", "temperature": 0.7, "top_p": 1.0}])
def test_it_keeps_the_contract(config: object) -> None:
    check_objective(config)


def loss_of(process_name: str, student_top_p: float) -> LossOutput:
    """Loss with an exact teacher, top-p 0.5, and a student that is the same teacher at another top-p."""
    source = Markov(Markov.Config(vocab_size=4, length=6, size=64))
    process = PROCESSES.build(process_name, vocab_size=4)
    oracle = exact_denoiser(source, process)

    def student(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        shaped = shape(oracle(x_t, t), top_p_=student_top_p)
        table = torch.full((*x_t.shape, 4), 0.25).double()
        table[shaped.where] = shaped.log_probs().exp().clamp_min(1e-12)
        return TablePrediction(table.log().log_softmax(-1), x_t, shaped.where)

    streams = {name: torch.Generator().manual_seed(0) for name in ("time", "noise", "sample")}
    roles = {"teacher": oracle, "student": student}
    ctx = StepContext(roles, process, streams, torch.device("cpu"))  # type: ignore[arg-type]
    objective = OBJECTIVES.build({"type": "soft_targets", "top_p": 0.5})
    return objective.loss(objective.phases()[0], Batch(source.train), ctx)


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_its_optimum_is_the_sharpened_teacher(process: str) -> None:
    assert abs(float(loss_of(process, student_top_p=0.5).loss)) < 1e-6
    assert float(loss_of(process, student_top_p=1.0).loss) > 0.05


def test_the_recipe_is_valid_and_nothing_to_learn_is_refused() -> None:
    assert load_recipe(RECIPE).recipe.objective.type == "soft_targets"
    with pytest.raises(RecipeError, match="there is nothing to learn"):
        load_recipe(RECIPE, ["objective.top_p=1"])
