"""The classifier or reward that a sampler names, and the denoisers that it guides."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.denoisers.classifier_guidance import ClassifierGuidedDenoiser
from fewstep.denoisers.reward import LogRatio, RewardedDenoiser
from fewstep.runs.models import load_model, load_role
from fewstep.samplers.base import Sampler
from fewstep.samplers.reward_guided import RewardSection
from fewstep.samplers.walk import ClassifierSection

Guide = Callable[[Denoiser], Denoiser]
"""A denoiser as a sampler wants it: guided by the sampler's classifier or reward, or as it is if there is none."""


_MISSING = {
    "student": "'{}' is no classifier; train one with objective classifier",
    "discriminator": "the discriminator of '{}' scores no samples",
}
"""What is said of a run whose network in this role is no classifier."""


def networks_named(sampler: ComponentConfig) -> dict[str, tuple[str, str]]:
    """Runs that the settings of a sampler name, with the role that is asked: {"reward.run": (run, "discriminator")}."""
    reward: RewardSection | None = getattr(sampler, "reward", None)
    classifier: ClassifierSection | None = getattr(sampler, "classifier", None)
    found = {}
    if reward is not None:
        found["reward.run"] = reward.run, "discriminator"
    if classifier is not None:
        found["classifier.run"] = classifier.run, "student"
    return found


def guide_of(sampler: Sampler, dataset: Dataset) -> Guide:
    """Load the classifier or the reward of a sampler, if it names one.

    Raises:
        UserError: no such run, no classifier or discriminator, or one of other data or labels.
    """
    reward: RewardSection | None = getattr(sampler.config, "reward", None)
    section: ClassifierSection | None = getattr(sampler.config, "classifier", None)
    if reward is not None:
        discriminator = _Network("reward", reward.run, "discriminator", dataset)
        return lambda denoiser: RewardedDenoiser(denoiser, LogRatio(discriminator.beside(denoiser)))
    if section is None:
        return lambda denoiser: denoiser
    classifier = _Network("classifier", section.run, "student", dataset)
    weight, approximate = section.weight, section.approximate

    def guide(denoiser: Denoiser) -> Denoiser:
        return ClassifierGuidedDenoiser(denoiser, classifier.beside(denoiser), weight=weight, approximate=approximate)

    return guide


class _Network:
    """A network of a run that scores samples, of the same data as the denoiser's."""

    def __init__(self, section: str, run: str, role: str, dataset: Dataset) -> None:
        model = load_model(run, device="cpu") if role == "student" else load_role(run, role)
        self.section, self.run = section, run
        if not isinstance(model.denoiser, NetworkClassifier):
            raise UserError(f"{section}.run: {_MISSING[role].format(run)}")
        if model.dataset.fingerprint != dataset.fingerprint or not _equal(model.dataset.labels, dataset.labels):
            raise UserError(f"{section}.run: '{run}' was trained on other data; use this run's data section")
        self.network = model.denoiser

    def beside(self, denoiser: Denoiser) -> NetworkClassifier:
        """It, on the denoiser's device.

        Raises:
            UserError: it knows other states than the denoiser.
        """
        if denoiser.process.num_states != self.network.process.num_states:
            raise UserError(f"{self.section}.run: '{self.run}' knows another process; use this run's process section")
        return self.network.to(denoiser.device)


def _equal(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether the labels of two datasets are the same, or there are none of either."""
    return ours is theirs or (ours is not None and theirs is not None and ours.equal(theirs))
