"""Search for the step grid of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.grids.base import GRIDS
from fewstep.grids.files import Costs, GridFile, Walk, write_grid_file
from fewstep.grids.search import cheapest_paths, path_cost
from fewstep.likelihood.step_costs import Posterior, StepCosts
from fewstep.processes.base import DiscreteProcess
from fewstep.runs.models import TrainedModel, Weights, find_model, with_data
from fewstep.runtime.progress import Narrator, Progress


def grid_run(
    run: str,
    steps: Sequence[int],
    out: str | None = None,
    times: int = 64,
    samples: int = 512,
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
) -> tuple[Path, GridFile]:
    """Measure the cost of steps of a run's model, and write the cheapest walks of the numbers `steps` into a file.

    Args:
        out: file to write; `grid.json` in the run's folder if left out.
        times: number of steps of the fine grid; walks use a subset of its times.
        samples: number of data samples to measure on: held-out ones if the model needs no labels.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: no such run or device, more steps than fine ones, or a model that goes block by block.
    """
    if max(steps) > times:
        raise UserError(f"a walk of {max(steps)} steps needs as many fine ones, and there are {times}; raise --times")
    model = find_model(run, weights=weights).build(None, device, "--device")
    if model.denoiser.block_size is not None:
        raise UserError(f"run '{model.path}' goes block by block; grids are measured for models of whole samples")
    if not isinstance(model.denoiser.process, DiscreteProcess):
        raise UserError(f"run '{model.path}' has process '{model.recipe.process.type}'; grids are measured for ids")
    if model.denoiser.has_clock:
        raise UserError(f"run '{model.path}' has a clock of its own; grids are measured for the process's")
    data, labels = _data(model, samples)
    posterior: Posterior = getattr(model.recipe.sampler, "posterior", "drawn")
    costs = StepCosts(
        model.denoiser,
        data,
        labels=labels,
        batch_size=model.recipe.evaluate.batch_size,
        seed=seed,
        posterior=posterior,
    )
    fine, summary, walks = search_grids(costs, times, steps, Narrator("grid", unit="times"))
    grid = GridFile(
        run=str(model.path),
        step=model.step,
        weights=weights,
        seed=seed,
        process=model.recipe.process.model_dump(mode="json"),
        posterior=posterior,
        fine_times=tuple(fine),
        costs=summary,
        walks=walks,
    )
    path = Path(out) if out else model.run.path / "grid.json"
    write_grid_file(path, grid)
    return path, grid


def search_grids(
    costs: StepCosts, times: int, steps: Sequence[int], progress: Progress | None = None
) -> tuple[list[float], Costs, dict[int, Walk]]:
    """The fine times, the costs of their steps, and for each number of steps the cheapest walk and the usual ones."""
    linear, cosine = GRIDS.build("linear"), GRIDS.build("cosine")
    fine, before = linear.times(times), costs.denoiser.evaluated
    matrix = costs.matrix(fine, progress)
    evaluations = (costs.denoiser.evaluated - before) / len(costs.data)
    step_costs = [float(matrix[index, index + 1]) for index in range(times)]
    summary = Costs(
        samples=len(costs.data),
        evaluations=evaluations,
        steps=tuple(step_costs),
        finest=sum(step_costs),
        coarsest=float(matrix[0, -1]),
    )
    walks = {
        count: Walk(
            times=tuple(fine[index] for index in path),
            cost=path_cost(matrix, path),
            linear=costs.walk(linear.times(count)),
            cosine=costs.walk(cosine.times(count)),
        )
        for count, path in cheapest_paths(matrix, steps).items()
    }
    return fine, summary, walks


def _data(model: TrainedModel, samples: int) -> tuple[Tensor, Tensor | None]:
    """Data to measure on, with labels for a model that is conditioned on them; held-out data have no labels."""
    dataset = with_data(model)
    if model.denoiser.conditioned_on_labels:
        assert dataset.labels is not None
        return dataset.train[:samples].long(), dataset.labels[:samples]
    return (dataset.train if dataset.held_out is None else dataset.held_out)[:samples].long(), None
