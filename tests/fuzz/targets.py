"""Every target, by name."""

from types import ModuleType

from . import answers, archives, documents, encryption, journals, layouts, names, nodes, packs, values
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
]
"""Each has a list `TARGETS`."""

TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
