"""What is asked of which run: methods that fit, layer, class; checked before any work is done."""

import dataclasses
from collections.abc import Sequence

from leukjax.errors import UserError
from leukjax.explain import explainer
from leukjax.explain.attribution import methods as known
from leukjax.explain.attribution import network
from leukjax.explain.attribution.methods import METHODS, Settings
from leukjax.explain.attribution.network import FEATURE_MAP, Kind
from leukjax.explain.attribution.occlusion import window_for
from leukjax.predict.member import Member

PREDICTED = "predicted"


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.explain`, which says what they are; `methods` () = the usual ones."""

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
    """A run that explains.

    Attributes:
      name: for files and headings, unlike those of the other runs.
      methods: those that fit it.
      target: the class to explain; None = what it predicts.
    """

    model: Member
    name: str
    methods: tuple[str, ...]
    settings: Settings
    target: int | None


def choose(models: Sequence[Member], options: Options) -> list[Run]:
    """What each run is asked.

    Raises:
      UserError: methods, layer or target that a run does not have.
    """
    families = [model.preprocessing["model"]["name"] for model in models]
    forms = [network.form_of(explainer.network_of(model), model.image_size) for model in models]
    wanted = options.methods or tuple(dict.fromkeys(m for f in forms for m in known.usual(f)))
    known.check(wanted, list(zip(families, forms, strict=True)))
    if options.layer and "convolutional" not in forms:
        raise UserError(f"--layer={options.layer}: is of class activation maps, which are not for "
                        f"{families[0]}; leave it out")  # fmt: skip
    names = [model.workdir.resolve().name for model in models]
    names = [n if names.count(n) == 1 else f"{i + 1}-{n}" for i, n in enumerate(names)]
    chosen = []
    for model, form, name in zip(models, forms, names, strict=True):
        if options.target not in (PREDICTED, *model.classes):
            raise UserError(
                f"--target={options.target}: {model.workdir} has the classes "
                f"{', '.join(model.classes)}; name one of them, or {PREDICTED}"
            )
        own = tuple(method for method in wanted if known.fits(method, form))
        layer = FEATURE_MAP
        if any(METHODS[method].fits == "convolutional" for method in own):
            seen = explainer.network_of(model)
            if options.layer:
                network.check_layer(seen, model.image_size, options.layer)
            layer = options.layer or network.choose_layer(seen, model.image_size)
        window, stride = window_for(model.image_size)
        power = 4 if model.preprocessing["model"].get("norm") == "group" else 1
        settings = Settings(layer, options.kind, options.steps, power, window, stride)
        target = None if options.target == PREDICTED else model.classes.index(options.target)
        chosen.append(Run(model, name, own, settings, target))
    return chosen
