"""Write labels/imagenet1k.json: python labels/build.py [--check].

It joins WordNet 3.0 (Debian's package wordnet-base: synonyms, glosses, hypernyms) with what is edited by hand in
labels/imagenet1k: the names in names.csv and the groups in groups.toml. With --check it writes nothing, and fails if
the file would change.
"""

import csv
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

WORDNET = Path("/usr/share/wordnet/data.noun")
FOLDER = Path(__file__).parent
SOURCE, TARGET = FOLDER / "imagenet1k", FOLDER / "imagenet1k.json"


class Synset(NamedTuple):
    words: list[str]
    hypernyms: list[int]
    gloss: str


def synset(nouns: bytes, offset: int) -> Synset:
    """The synset at a byte offset of data.noun, whose format is in wndb(5WN)."""
    data, _, gloss = nouns[offset : nouns.index(b"\n", offset)].decode("latin-1").partition("|")
    fields = data.split()
    assert int(fields[0]) == offset
    words = int(fields[3], 16)
    pointers = 4 + 2 * words
    kinds = [fields[pointers + 1 + 4 * i : pointers + 3 + 4 * i] for i in range(int(fields[pointers]))]
    hypernyms = [int(target) for kind, target in kinds if kind in ("@", "@i")]
    names = [name.replace("_", " ") for name in fields[4:pointers:2]]
    definition = gloss.strip().split('; "')[0]  # examples follow it
    return Synset(names, hypernyms, definition)


def groups(table: dict[str, Any], path: str = "") -> Iterator[tuple[dict[str, str], list[str]]]:
    """Each group, parents first, and its synsets."""
    for name, part in table.items():
        if isinstance(part, dict):
            here = f"{path}/{name}".lstrip("/")
            yield {"id": here, "label": part["en"], "zh": part["zh"]}, part.get("synsets", [])
            yield from groups(part, here)


def group_of(nouns: bytes, offset: int, roots: dict[int, str]) -> str:
    """The group of the nearest synset that has one, upwards from `offset`."""
    level = [offset]
    while level:
        found = {roots[one] for one in level if one in roots}
        if len(found) > 1:
            raise SystemExit(f"n{offset:08} is as near to {' as to '.join(sorted(found))}: list it in groups.toml")
        if found:
            return found.pop()
        level = [above for one in level for above in synset(nouns, one).hypernyms]
    raise SystemExit(f"n{offset:08} is in no group: list it in groups.toml")


def build() -> str:
    nouns = WORDNET.read_bytes()
    tree = list(groups(tomllib.loads((SOURCE / "groups.toml").read_text("utf-8"))))
    roots: dict[int, str] = {}
    for group, synsets in tree:
        for one in synsets:
            if roots.setdefault(int(one[1:9]), group["id"]) != group["id"]:
                raise SystemExit(f"groups.toml lists {one} twice")
    rows = []
    with (SOURCE / "names.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            offset = int(row["wnid"][1:])
            words, _, gloss = synset(nouns, offset)
            names = {"class_id": int(row["class_id"]), "wnid": row["wnid"], "label": row["en"], "zh": row["zh"]}
            synonyms = [word for word in words if word.lower() != row["en"].lower()]
            group = group_of(nouns, offset, roots)
            rows.append({**names, "group": group, "gloss": gloss, "synonyms": synonyms})
    parts = {"groups": [group for group, _ in tree], "classes": rows}
    lists = ",\n".join(f"{json.dumps(name)}: [\n{lines(part)}\n]" for name, part in parts.items())
    return f"{{\n{lists}\n}}\n"


def lines(values: list[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(value, ensure_ascii=False) for value in values)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        TARGET.write_text(build(), "utf-8")
    elif build() != TARGET.read_text("utf-8"):
        sys.exit(f"{TARGET} is not what labels/build.py makes")
