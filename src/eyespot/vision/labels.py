"""The classes of a model: their names in each language, their groups, and the file that lists them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError, with_config
from pydantic_core import from_json

from eyespot.errors import BadManifest
from eyespot.types import Group, Label, LabelEntry, Lang
from eyespot.values import complaints


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True)
class ClassRow(Label):
    """A class in a label file; `label` is its English name, `group` the id of its most specific group.

    `other` marks the class of everything that is none of the others: an answer is unsure, rather than that.
    """

    zh: str | None = None
    synonyms: tuple[str, ...] = ()
    gloss: str | None = None
    group: str | None = None
    other: bool = False


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True)
class GroupRow(Group):
    """A group in a label file; `label` is its English name."""

    zh: str | None = None


@with_config(extra="forbid")
@dataclass(frozen=True)
class Labels:
    """A label file. Without a Chinese name, the English one stands in for it."""

    classes: tuple[ClassRow, ...]
    groups: tuple[GroupRow, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def names(self) -> dict[Lang, tuple[str, ...]]:
        """The names of all classes, by language."""
        return _names(self.classes)

    @cached_property
    def group_names(self) -> dict[Lang, tuple[str, ...]]:
        """The names of all groups, by language."""
        return _names(self.groups)

    @cached_property
    def other(self) -> int | None:
        """The class_id of the class that is none of the others, if there is one."""
        return next((row.class_id for row in self.classes if row.other), None)

    @cached_property
    def entries(self) -> dict[Lang, tuple[LabelEntry, ...]]:
        """All classes as a dictionary describes them, by language."""
        return {lang: tuple(self._entries(lang)) for lang in self.names}

    def find(self, text: str, lang: Lang = "en") -> list[LabelEntry]:
        """The classes with a word, in an English name or synonym, that begins with `text`, or several such words.

        Chinese has no spaces between words, so there `text` may stand anywhere in the name. Case, hyphens and the
        width of characters make no difference. Classes whose names match come before those whose synonyms do.
        """
        wanted = " ".join(_folded(text).split())
        by_name = [f" {wanted}" in name or wanted in zh for name, _, zh in self._texts]
        by_synonym = [f" {wanted}" in synonyms for _, synonyms, _ in self._texts]
        also = (synonym and not name for name, synonym in zip(by_name, by_synonym, strict=True))
        entries = self.entries[lang]
        return [*compress(entries, by_name), *compress(entries, also)]

    @cached_property
    def _texts(self) -> list[tuple[str, str, str]]:
        """What `find` searches of each class: name and synonyms, whose words have spaces before them, and Chinese."""
        return [
            (f" {_folded(row.label)}", "\n".join(f" {_folded(name)}" for name in row.synonyms), _folded(row.zh or ""))
            for row in self.classes
        ]

    def _entries(self, lang: Lang) -> Iterator[LabelEntry]:
        groups = {row.id: Group(row.id, name) for row, name in zip(self.groups, self.group_names[lang], strict=True)}
        for row, name in zip(self.classes, self.names[lang], strict=True):
            path = [groups[group] for group in upwards(row.group)]
            synonyms = list(row.synonyms)
            yield LabelEntry(row.class_id, row.wnid, name, row.label, row.zh, synonyms, row.gloss, path, row.other)


def _names(rows: Sequence[ClassRow | GroupRow]) -> dict[Lang, tuple[str, ...]]:
    return {"en": tuple(row.label for row in rows), "zh": tuple(row.zh or row.label for row in rows)}


def upwards(group: str | None) -> Iterator[str]:
    """The ids of a group and of those above it: `animal/dog/hound`, `animal/dog`, `animal`."""
    while group:
        yield group
        group = group.rpartition("/")[0]


def load_labels(name: str, folders: Iterable[Path]) -> Labels:
    """The classes in `<name>.json` from the first folder that has it.

    The file is a list of classes, or an object with `classes` and `groups`. Raises `BadManifest`.
    """
    tried = [folder / f"{name}.json" for folder in folders]
    path = next(filter(Path.is_file, tried), None)
    if path is None:
        raise BadManifest(f"no label file: looked for {', '.join(map(str, tried))}")
    try:
        content = from_json(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise BadManifest(f"{path} is not a label file: it is not JSON") from error
    return read_labels(content, path)


def read_labels(content: object, origin: Path) -> Labels:
    """The classes in the content of a label file, which comes from `origin`. Raises `BadManifest`."""
    try:
        labels = _LABELS.validate_python({"classes": content} if isinstance(content, list) else content)
    except ValidationError as error:
        raise BadManifest(f"{origin} is not a label file: {complaints(error, _LABELS.json_schema())[0]}") from error
    if complaint := next(_complaints(labels), None):
        raise BadManifest(f"{origin}: {complaint}")
    return labels


def to_json(labels: Labels) -> bytes:
    """The content of a label file, without the fields that have their default."""
    return _LABELS.dump_json(labels, indent=1, exclude_defaults=True)


_LABELS = TypeAdapter(Labels)


def _complaints(labels: Labels) -> Iterator[str]:
    if [row.class_id for row in labels.classes] != list(range(len(labels))):
        yield "class_id must be 0, 1, 2, … in this order"
    if not labels.classes:
        yield "it has no classes"
    for name in (name for names in labels.names.values() for name in names):
        if not name.isprintable() or not 0 < len(name) <= 200 or name != name.strip():
            yield f"{name[:200]!r} cannot be a name: it has 1 to 200 characters, none of them a control character"
    for lang in labels.names:
        yield from _doubled(labels.names[lang], "name", "classes")
        yield from _doubled(labels.group_names[lang], "name", "groups")
    yield from _doubled([row.id for row in labels.groups], "id", "groups")
    if sum(row.other for row in labels.classes) > 1:
        yield "only one class can be `other`"
    known = {row.id for row in labels.groups}
    yield from (f"the group {group!r} is more than three deep" for group in known if group.count("/") > 2)
    for group in (*known, *(row.group for row in labels.classes)):
        yield from (f"there is no group {part!r}" for part in upwards(group) if part not in known)


def _doubled(names: Sequence[str], what: str, rows: str) -> Iterator[str]:
    for name, times in Counter(names).most_common(1):
        if times > 1:
            yield f"{name!r} is the {what} of {times} {rows}; {what}s must be unique"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("-", " ")
