"""Checks the options against the runs before any work: methods, layer and class of each run."""

import dataclasses
from collections.abc import Sequence

from leukjax.errors import UserError
from leukjax.explain import methods
from leukjax.explain.explainer import network_of
from leukjax.explain.maps import window_for
from leukjax.explain.methods import METHODS, Settings
from leukjax.explain.network import FEATURE_MAP, Kind, check_layer, choose_layer, form_of
from leukjax.predict.member import Member

PREDICTED = "predicted"


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.explain`; `methods` () = the default ones."""

    methods: tuple[str, ...] = ()
    target: str = PREDICTED
    layer: str = ""
    kind: Kind = "log_odds"
    baseline: str = "mean"
    steps: int = 64
    step: int | str = "best"
    batch_size: int = 16
    threads: int = 8
    overlays: bool = True


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose predictions are explained.

    Attributes:
      name: for files and headings; unique among the runs.
      methods: those that support its network.
      target: the class to explain; None = the predicted class.
    """

    model: Member
    name: str
    methods: tuple[str, ...]
    settings: Settings
    target: int | None


def choose(models: Sequence[Member], options: Options) -> list[Run]:
    """Returns the methods, settings and target of each run.

    Raises:
      UserError: a run does not support the methods, the layer or the target.
    """
    families = [model.preprocessing["model"]["name"] for model in models]
    forms = [form_of(network_of(model), model.image_size) for model in models]
    wanted = options.methods or tuple(dict.fromkeys(m for f in forms for m in methods.defaults(f)))
    methods.check(wanted, list(zip(families, forms, strict=True)))
    if options.layer and not {"convolutional", "vit"} & {*forms}:
        raise UserError(f"--layer={options.layer}: applies to class activation maps, which "
                        f"do not support {families[0]}; remove it")  # fmt: skip
    names = [model.workdir.resolve().name for model in models]
    names = [n if names.count(n) == 1 else f"{i + 1}-{n}" for i, n in enumerate(names)]
    chosen = []
    for model, form, name in zip(models, forms, names, strict=True):
        if options.target not in (PREDICTED, *model.classes):
            raise UserError(
                f"--target={options.target}: {model.workdir} has the classes "
                f"{', '.join(model.classes)}; name one of them, or {PREDICTED}"
            )
        supported = tuple(method for method in wanted if methods.fits(method, form))
        layer = FEATURE_MAP
        if any(METHODS[method].of_layer for method in supported):
            network = network_of(model)
            if options.layer:
                check_layer(network, model.image_size, options.layer)
            layer = options.layer or choose_layer(network, model.image_size)
        window, stride = window_for(model.image_size)
        power = 4 if model.preprocessing["model"].get("norm") == "group" else 1
        settings = Settings(layer, options.kind, options.steps, power, window, stride)
        target = None if options.target == PREDICTED else model.classes.index(options.target)
        chosen.append(Run(model, name, supported, settings, target))
    return chosen
