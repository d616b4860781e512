"""Conformance checks for components. fewstep's own components pass them, and plugin authors can use them.

Each asserts a contract; its message names the broken part::

    from fewstep.testing import check_objective

    def test_mine() -> None:
        check_objective("my_objective")

No file is a component: there is one file for each kind, and `statistics` is shared.
"""

from fewstep.testing.autoencoders import check_autoencoder
from fewstep.testing.backbones import check_backbone
from fewstep.testing.datasets import check_dataset
from fewstep.testing.grids import check_grid
from fewstep.testing.metrics import check_metric
from fewstep.testing.noise_inputs import check_noise_input
from fewstep.testing.objectives import check_objective
from fewstep.testing.processes import check_process
from fewstep.testing.samplers import check_sampler
from fewstep.testing.schedules import check_schedule
from fewstep.testing.supervisions import check_supervision
from fewstep.testing.tokenizers import check_tokenizer

__all__ = [
    "check_autoencoder",
    "check_backbone",
    "check_dataset",
    "check_grid",
    "check_metric",
    "check_noise_input",
    "check_objective",
    "check_process",
    "check_sampler",
    "check_schedule",
    "check_supervision",
    "check_tokenizer",
]
