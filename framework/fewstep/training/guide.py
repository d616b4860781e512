"""The classifier or reward that a sampler names, and the denoisers that it guides."""

from __future__ import annotations

from collections.abc import Callable

from fewstep.classifier import NetworkClassifier
from fewstep.classifier_guidance import ClassifierGuidedDenoiser
from fewstep.component import ComponentConfig
from fewstep.data.base import Dataset
from fewstep.denoiser import Denoiser
from fewstep.errors import UserError
from fewstep.reward import LogRatio, RewardedDenoiser
from fewstep.samplers.base import Sampler
from fewstep.samplers.reward_guided import RewardSection
from fewstep.samplers.walk import ClassifierSection
from fewstep.training.build import load_model, load_role

Guide = Callable[[Denoiser], Denoiser]
"""A denoiser as a sampler wants it: guided by the sampler's classifier or reward, or as it is if there is none."""


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
    if reward is not None:
        return _rewarded(reward.run, dataset)
    section: ClassifierSection | None = getattr(sampler.config, "classifier", None)
    if section is None:
        return lambda denoiser: denoiser
    model = load_model(section.run, device="cpu")
    classifier = model.denoiser
    if not isinstance(classifier, NetworkClassifier):
        raise UserError(f"classifier.run: '{section.run}' is no classifier; train one with objective classifier")
    ours, theirs = dataset.labels, model.dataset.labels
    if model.dataset.fingerprint != dataset.fingerprint or ours is None or theirs is None or not ours.equal(theirs):
        raise UserError(f"classifier.run: '{section.run}' was trained on other data; use this run's data section")

    def guide(denoiser: Denoiser) -> Denoiser:
        placed = _placed("classifier", section.run, classifier, denoiser)
        return ClassifierGuidedDenoiser(denoiser, placed, weight=section.weight, approximate=section.approximate)

    return guide


def _rewarded(run: str, dataset: Dataset) -> Guide:
    """A run's discriminator as the reward."""
    model = load_role(run, "discriminator")
    discriminator = model.denoiser
    if not isinstance(discriminator, NetworkClassifier):
        raise UserError(f"reward.run: the discriminator of '{run}' scores no samples")
    if model.dataset.fingerprint != dataset.fingerprint:
        raise UserError(f"reward.run: '{run}' was trained on other data; use this run's data section")

    return lambda denoiser: RewardedDenoiser(denoiser, LogRatio(_placed("reward", run, discriminator, denoiser)))


def _placed(section: str, run: str, network: NetworkClassifier, denoiser: Denoiser) -> NetworkClassifier:
    """The network on the denoiser's device, if it knows the same states."""
    if denoiser.process.num_states != network.process.num_states:
        raise UserError(f"{section}.run: '{run}' knows another process; use this run's process section")
    return network.to(denoiser.device)
