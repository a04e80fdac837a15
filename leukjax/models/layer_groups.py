"""How deep in a model a parameter lies, from its path: what freezing and rates by depth go by."""

import re
from collections.abc import Iterable

# First module of a path, in the order of the forward pass; a number in it orders further.
_ORDER = (
    r"stem_(?:conv|norm)",
    r"(?:conv|norm)(\d+)",
    r"(?:layer|stage)(\d+)_\d+",
    r"embedding|cls_token|pos_embed",
    r"block(\d+)",
    r"norm|hidden",
    r"fc|head",
)


def depths(paths: Iterable[str]) -> dict[str, int]:
    """The stage of each parameter: 0 at the images, one more for each later stage.

    Stages are the stem, each stage of a ResNet, the tokens' embedding, each block of a transformer,
    what follows them, and last the head.

    Args:
      paths: of all parameters of a model, as in ``layer1_0/conv1/kernel``.
    """
    places = {path: _place(path.split("/")[0]) for path in paths}
    order = {place: number for number, place in enumerate(sorted(set(places.values())))}
    return {path: order[place] for path, place in places.items()}


def _place(module: str) -> tuple[int, int]:
    for number, expression in enumerate(_ORDER):
        found = re.fullmatch(expression, module)
        if found:
            return number, int(found[1]) if found.re.groups else 0
    raise AssertionError(f"{module}: depth.py must say where this module lies")
