"""Whether the Python packages are there that atenea's metadata asks for, and new enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atenea.finding import Finding
from atenea.installing import pip


def package_findings(extra: str = "", modules: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Look at the packages of atenea itself, or of one of its extras.

    Args:
        extra: such as "hallo2"; nothing for what atenea always needs.
        modules: what is imported, and the package that has it, where other builds of the package have it too: one of
            them will do, two would overwrite each other's files.
    """
    try:
        wanted = list(_wanted(metadata.requires("atenea") or [], extra))
    except metadata.PackageNotFoundError:
        text = "atenea is used without being installed, so nothing says which packages it needs"
        yield Finding("packages", "note", text, f"in its folder: {pip('install', '-e', '.')}")
        return
    builds = _builds(modules or {})
    right = []
    for requirement in wanted:
        found = builds.get(canonicalize_name(requirement.name)) or [requirement.name]
        finding = _mixed(requirement, found) or _unfit(requirement, found[0])
        if finding:
            yield finding
        else:
            right.append(f"{found[0]} {metadata.version(found[0])}")
    if len(right) == len(wanted):
        yield Finding("packages", "ok", ", ".join(right) if extra else f"all {len(right)} are there, and new enough")


def _wanted(declared: list[str], extra: str) -> Iterator[Requirement]:
    for requirement in map(Requirement, declared):
        asked = [requirement.marker is None or requirement.marker.evaluate({"extra": name}) for name in (extra, "")]
        if asked == [True, not extra]:
            yield requirement


def _builds(modules: Mapping[str, str]) -> dict[str, list[str]]:
    """For each package of `modules`, the distributions that have its module."""
    every = metadata.packages_distributions() if modules else {}
    return {canonicalize_name(package): sorted(set(every.get(module, ()))) for module, package in modules.items()}


def _mixed(requirement: Requirement, found: list[str]) -> Finding | None:
    if len(found) < 2:
        return None
    return Finding(
        "packages",
        "problem",
        f"{' and '.join(found)} are builds of the same package, and have overwritten each other's files",
        f"{pip('uninstall', '-y', *found)}, then {pip('install', _bare(requirement))}",
    )


def _unfit(requirement: Requirement, name: str) -> Finding | None:
    cure = pip("install", _bare(requirement))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("packages", "problem", f"the Python package {requirement.name} is missing", cure)
    if requirement.specifier.contains(version, prereleases=True):
        return None
    text = f"{name} is {version}, and {requirement.specifier} is needed"
    return Finding("packages", "problem", text, cure)


def _bare(requirement: Requirement) -> str:
    """The requirement as pip takes it, without the condition that it holds under."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
