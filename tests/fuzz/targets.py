"""Every target, by name."""

from types import ModuleType

from . import (
    answers,
    archives,
    blocks,
    documents,
    encryption,
    files,
    hierarchies,
    journals,
    layouts,
    names,
    nodes,
    packs,
    values,
)
from .target import Target

MODULES: list[ModuleType] = [
    nodes,
    values,
    archives,
    packs,
    journals,
    names,
    documents,
    answers,
    encryption,
    layouts,
    blocks,
    hierarchies,
    files,
]
"""Each has a list `TARGETS`."""

TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
