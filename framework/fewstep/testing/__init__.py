"""The plugin kit: conformance checks for every kind of component, exact sources and oracles, and new plugins.

A check asserts a contract; its message names the broken part. fewstep's own components pass them::

    from fewstep.testing import check_objective

    def test_mine() -> None:
        check_objective("my_objective")

What is exported here is public: it changes with minor versions only, and warns for one before it goes.

No file is a component: there is one file for each kind, `every_kind` has them all, `exact` has the sources and oracles,
`statistics` and `synchronisations` are shared, and `new_plugin` writes distributions from `templates/`.
"""

from fewstep.data.synthetic.coins import Coins
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.testing.autoencoders import check_autoencoder
from fewstep.testing.backbones import check_backbone
from fewstep.testing.datasets import check_dataset
from fewstep.testing.every_kind import CHECKS, check_component
from fewstep.testing.exact import (
    EnumeratedOracle,
    FreeDenoiser,
    RowsDenoiser,
    all_sequences,
    exact_distribution,
    loss_of,
    sequence_shares,
    step_context,
    total_variation,
)
from fewstep.testing.grids import check_grid
from fewstep.testing.metrics import check_metric
from fewstep.testing.noise_inputs import check_noise_input
from fewstep.testing.objectives import check_objective
from fewstep.testing.processes import check_process
from fewstep.testing.samplers import check_sampler
from fewstep.testing.schedules import check_schedule
from fewstep.testing.statistics import assert_same_distribution, chi_square_sigmas
from fewstep.testing.supervisions import check_supervision
from fewstep.testing.synchronisations import Synchronisations
from fewstep.testing.tokenizers import check_tokenizer
from fewstep.testing.trackers import check_tracker

__all__ = [
    "CHECKS",
    "Coins",
    "EnumeratedOracle",
    "FreeDenoiser",
    "Markov",
    "RowsDenoiser",
    "Synchronisations",
    "all_sequences",
    "assert_same_distribution",
    "check_autoencoder",
    "check_backbone",
    "check_component",
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
    "check_tracker",
    "chi_square_sigmas",
    "exact_denoiser",
    "exact_distribution",
    "loss_of",
    "sequence_shares",
    "step_context",
    "total_variation",
]
