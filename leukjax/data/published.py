"""Public data sets as they were published: counts, licence, citation, and what is not known."""

import dataclasses
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from leukjax.data.archive import IMAGES, File, Files
from leukjax.data.dataset import FileDataset, sampled_images
from leukjax.data.image_stats import find_background
from leukjax.data.source import INFO, WARNING, Entry, Note
from leukjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
    """What is published about a data set.

    Attributes:
      name: the value of `data.name`.
      title: its name in print.
      images: number of images.
      classes: class -> number of images; 0 where it is not published.
      citation: reference with its doi.
      licence: "" where we have not found it.
      people: number of people that the images are of; 0 where it is not published.
      caveats: what a reader of scores must know, one sentence each.
      layout: what a folder of it looks like, for messages.
      positive: default class of precision, recall and F1, of two.
      parts: `official_parts` of the data set.
      counts_checked: False if the counts of the classes add up to the published total, but were
        not compared with the source.
    """

    name: str
    title: str
    images: int
    classes: Mapping[str, int]
    citation: str
    layout: str = ""
    licence: str = ""
    people: int = 0
    caveats: tuple[str, ...] = ()
    positive: str = ""
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    counts_checked: bool = True

    def notes(
        self, entries: list[Entry], classes: tuple[str, ...], subjects_known: bool
    ) -> list[Note]:
        """Returns the notes on a copy: counts beside the published ones, licence and caveats."""
        labels = Counter(classes[entry.label] for entry in entries if entry.label >= 0)
        differing = [
            f"{name} {labels[name]:,} (published: {count:,})"
            for name, count in self.classes.items()
            if count and labels[name] != count
        ]
        if len(entries) == self.images and not differing:
            per_class = ", ".join(f"{name} {labels[name]:,}" for name in classes)
            notes = [Note(INFO, f"{self.title}: {self.images:,} images as published ({per_class})")]
        else:
            which = f": {', '.join(differing)}" if differing else ""
            notes = [
                Note(
                    WARNING,
                    f"{self.title}: {len(entries):,} images, {self.images:,} are published{which}",
                )
            ]
        if not self.counts_checked:
            text = f"{self.title}: the counts of the classes were not compared with the source"
            notes.append(Note(INFO, text))
        licence = f"licence {self.licence}" if self.licence else "see its source for the licence"
        notes.append(Note(INFO, f"{self.title}: {licence}; cite {self.citation}"))
        caveats = list(self.caveats)
        if not subjects_known:
            people = f"the images are of {self.people:,} people, but whose is which is not known; "
            caveats.insert(0, f"{people if self.people else ''}no patients: intervals are by image")
        return [*notes, *(Note(WARNING, f"{self.title}: {text}") for text in caveats)]


class Place(NamedTuple):
    """Where a file of a data set belongs; the fields are those of `Entry`."""

    label: str
    subject: str = ""
    phase: str = ""


class PublishedFiles(FileDataset):
    """A public data set of image files: a subclass says what is published and places each file.

    Files that have no place are left out and counted.
    """

    published: ClassVar[Published]

    def __init__(self, root: str, *, positive: str = "", bad_images: str = "error") -> None:
        """Lists the images anywhere below `root`, in folders or in zips.

        Ids are the paths below the root; classes are those that are published and there, in the
        order of the publication.

        Raises:
          UserError: no image has a place, or only those of one class.
        """
        published = self.published
        files = Files(root)
        images = [file for file in files.files if file.suffix in IMAGES]
        placed = [(file, place) for file in images if (place := self.place(file))]
        labels = {place.label for _, place in placed}
        classes = tuple(name for name in published.classes if name in labels)
        if len(classes) < 2:
            example = images[0].location if images else "no image"
            raise UserError(
                f"root: {root} is not laid out as {published.title}: found {example}; expected "
                f"{published.layout} of two classes or more"
            )
        entries = [
            Entry(
                id=file.location,
                path=file.path,
                label=classes.index(place.label),
                subject=place.subject or file.location,
                phase=place.phase,
            )
            for file, place in placed
        ]
        subjects_known = any(place.subject for _, place in placed)
        notes = published.notes(entries, classes, subjects_known)
        if len(placed) < len(images):
            notes.append(Note(INFO, f"{len(images) - len(placed):,} other images are left out"))
        notes += [Note(INFO, text) for text in files.notes()]
        background, _ = find_background(sampled_images(files, [file for file, _ in placed]))
        super().__init__(
            name=published.name,
            classes=classes,
            positive=positive or (published.positive if published.positive in classes else ""),
            entries=entries,
            notes=notes,
            subjects_known=subjects_known,
            background=background,
            official_parts=published.parts,
            bad_images=bad_images,
            config_fields={"data.root": str(files.root.absolute()), "data.positive": positive},
            files=files,
        )

    @abstractmethod
    def place(self, file: File) -> Place | None:
        """Returns where a file belongs; None = it does not belong to the data set."""


def folder_of(file: File, names: Mapping[str, str]) -> str | None:
    """Returns the value of the innermost folder of a file that is a key, in lower case."""
    folders = reversed(file.location.lower().split("/")[:-1])
    return next((names[name] for folder in folders if (name := _bare(folder)) in names), None)


def _bare(folder: str) -> str:
    return folder.removesuffix(".zip")
