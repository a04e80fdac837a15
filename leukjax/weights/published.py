"""Published weights that the shipped configs know by name."""

from typing import NamedTuple


class Published(NamedTuple):
    """Weights, and how to start from them.

    Attributes:
      recipe: its name in the argument of the config.
      config: file of configs/.
      source: ``hf://…``, or the page of a .pth that has to be downloaded and converted.
      model: value of ``model.variant`` of a vit, or the name for `create_model`.
      parameters: millions, without the head.
      preprocessing: image size, and mean and standard deviation in [0, 1].
      licence: as the page of the weights states it.
      layout: how their tensors are named.
    """

    recipe: str
    config: str
    source: str
    model: str
    parameters: float
    preprocessing: str
    licence: str
    layout: str

    @property
    def weights(self) -> str:
        """Value of ``init.weights``; "" if the user has to give a converted file."""
        return self.source if self.source.startswith("hf://") else ""

    @property
    def megabytes(self) -> int:
        """Size of the file, in float32."""
        return round(4 * self.parameters)

    @property
    def command(self) -> str:
        """A command that fine-tunes them on C-NMC 2019."""
        file = "" if self.weights else " --config.init.weights=FILE"
        return (
            f"python -m leukjax.main --config=configs/{self.config}.py:cnmc,{self.recipe}"
            f"{file} --config.data.root=FOLDER --workdir=RUN"
        )


_APACHE, _GATED = "Apache-2.0", "CC BY-NC-ND 4.0, gated"
_IMAGENET, _HALF = "224 px, ImageNet", "224 px, 0.5"
_ZENODO = "https://zenodo.org/records/10908163"
_UNI = "https://huggingface.co/MahmoodLab/UNI"
# Letter of the width, its name, and millions of parameters with patches of 14 px.
_WIDTHS = (("s", "small", 21.6), ("b", "base", 85.7), ("l", "large", 303.2), ("g", "giant", 1134.8))


def _vits() -> list[Published]:
    """All published weights of `vit`."""

    def add(recipe: str, source: str, model: str, millions: float, text: str = _IMAGENET) -> None:
        entries.append(Published(recipe, "vit", source, model, millions, text, _APACHE, "timm"))

    entries: list[Published] = []
    for letter, name, millions in _WIDTHS[:3]:
        source = f"hf://1aurent/vit_{name}_patch14_224.dinobloom"
        add(f"dinobloom_{letter}", source, f"{letter}14", millions)
    entries.append(
        Published("dinobloom_g", "vit", _ZENODO, "g14", 1134.8, _IMAGENET, _APACHE, "DINOv2")
    )
    for letter, name, millions in _WIDTHS[:3]:
        # The notebook beside these weights says CC BY-NC 4.0.
        add(f"reddino_{name}", f"hf://Snarcy/RedDino-{name}", f"{letter}14", millions)
    for registers in ("", "_reg4"):
        for letter, name, millions in _WIDTHS:
            source = f"hf://timm/vit_{name}_patch14{registers}_dinov2.lvd142m"
            add(f"dinov2_{letter}{registers}", source, f"{letter}14{registers}", millions)
    for letter, name, millions in (
        ("s", "small", 21.7),
        ("b", "base", 85.8),
        ("l", "large", 303.3),
    ):
        source = f"hf://timm/vit_{name}_patch16_224.augreg_in21k"
        add(f"augreg_{letter}", source, f"{letter}16", millions, _HALF)
    for recipe, page, millions in (("uni", _UNI, 303.4), ("uni2_h", f"{_UNI}2-h", 681.4)):
        entries.append(Published(recipe, "vit", page, recipe, millions, _IMAGENET, _GATED, "timm"))
    return entries


PUBLISHED = (
    *_vits(),
    Published(
        "pretrained", "hybrid_vit", "hf://timm/vit_small_r26_s32_224.augreg_in21k_ft_in1k",
        "vit_small_r26_s32_224", 36.0, _HALF, _APACHE, "timm",
    ),
    Published(
        "pretrained", "resnet50", "hf://timm/resnet50.a1_in1k", "resnet50", 23.5, _IMAGENET,
        _APACHE, "timm",
    ),
    Published(
        "bit", "resnet50", "hf://timm/resnetv2_50x1_bit.goog_in21k", "resnetv2_50x1_bit", 23.5,
        _HALF, _APACHE, "timm",
    ),
)  # fmt: skip


def of_config(config: str) -> dict[str, Published]:
    """Returns the weights that a file of configs/ knows, by recipe."""
    return {entry.recipe: entry for entry in PUBLISHED if entry.config == config}
