"""fewstep: few-step generators distilled from discrete diffusion models.

A kind of component is a folder, named like the word in `fewstep list`. Below the kinds lies the ground (`core`,
`runtime`), above them what is done with a run. A room imports only rooms below it; `python -m tests.rooms` prints them.
Importing this package stays cheap: torch is loaded by the first component that needs it.

No file is a component: `pipeline` is a face like this one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fewstep.core.version import __version__

_PUBLIC = {
    "BACKBONES": "fewstep.backbones.base",
    "Backbone": "fewstep.backbones.base",
    "Batch": "fewstep.objectives.base",
    "Codec": "fewstep.data.base",
    "Component": "fewstep.core.component",
    "ComponentConfig": "fewstep.core.component",
    "DATASETS": "fewstep.data.base",
    "DataSpec": "fewstep.data.base",
    "Dataset": "fewstep.data.base",
    "Denoiser": "fewstep.denoisers.base",
    "FewstepError": "fewstep.core.errors",
    "FormulaGrid": "fewstep.grids.base",
    "ForwardProcess": "fewstep.processes.base",
    "GRIDS": "fewstep.grids.base",
    "LossOutput": "fewstep.objectives.base",
    "METRICS": "fewstep.metrics.base",
    "Metric": "fewstep.metrics.base",
    "MetricConfig": "fewstep.metrics.base",
    "NOISE_INPUTS": "fewstep.adapters.noise.base",
    "NoiseInput": "fewstep.adapters.noise.base",
    "NoiseSchedule": "fewstep.schedules.base",
    "OBJECTIVES": "fewstep.objectives.base",
    "Objective": "fewstep.objectives.base",
    "PROCESSES": "fewstep.processes.base",
    "Phase": "fewstep.objectives.base",
    "Pipeline": "fewstep.pipeline",
    "Prediction": "fewstep.predictions.base",
    "ProcessConfig": "fewstep.processes.base",
    "Recipe": "fewstep.recipe.models",
    "RecipeView": "fewstep.core.recipe_view",
    "RoleSpec": "fewstep.objectives.base",
    "SAMPLERS": "fewstep.samplers.base",
    "SCHEDULES": "fewstep.schedules.base",
    "Sampler": "fewstep.samplers.base",
    "Samples": "fewstep.samplers.base",
    "Step": "fewstep.samplers.walk",
    "StepContext": "fewstep.objectives.base",
    "StepGrid": "fewstep.grids.base",
    "StepState": "fewstep.samplers.base",
    "ToScore": "fewstep.metrics.base",
    "TokenSpace": "fewstep.backbones.base",
    "Trainer": "fewstep.training.trainer",
    "Walk": "fewstep.samplers.walk",
    "WalkConfig": "fewstep.samplers.walk",
    "WalkSampler": "fewstep.samplers.walk",
    "build_component": "fewstep.runs.models",
    "open_model": "fewstep.runs.models",
    "load_recipe": "fewstep.recipe",
    "rowwise": "fewstep.predictions.base",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
