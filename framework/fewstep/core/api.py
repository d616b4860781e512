"""The interface that plugins are written against: its version is fewstep's own.

A distribution states the versions that it works with as a requirement on `fewstep` in its `pyproject.toml`
(`dependencies = ["fewstep>=0.1,<0.2"]`). Installers read the same line, and so does the loader of plugins, from the
metadata of the distribution and before it imports anything. Until 1.0 the interface changes with minor versions.
"""

from __future__ import annotations

from importlib.metadata import Distribution

from fewstep.core.version import __version__


def needed_api(distribution: Distribution | None) -> str:
    """Versions of fewstep that a distribution states, such as "<0.2,>=0.1"; empty if it states none."""
    if distribution is None or not distribution.requires:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement  # 10 ms, which only plugins cost

    specifiers = []
    for line in distribution.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.name.lower() == "fewstep" and (not requirement.marker or requirement.marker.evaluate()):
            specifiers.append(str(requirement.specifier))
    return ",".join(filter(None, specifiers))


def unmet_api(distribution: Distribution | None) -> str | None:
    """Why a distribution does not fit this fewstep, with the way out; None if it fits or states nothing."""
    needed = needed_api(distribution)
    if distribution is None or not needed:
        return None
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(needed).contains(__version__, prereleases=True):
        return None
    return (
        f"it needs fewstep{needed}, and this is fewstep {__version__}; install another version of fewstep or of "
        f"{distribution.name}"
    )
