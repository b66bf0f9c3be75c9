"""Keywords in XMP sidecars, the files beside photographs in which photo programs keep what is known of them.

The format is that of Adobe's XMP Specification (ISO 16684-1): keywords are the items of an rdf:Bag in dc:subject.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from lxml import etree

from eyespot import __version__
from eyespot.errors import SidecarUnreadable

_DC = "http://purl.org/dc/elements/1.1/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NEW = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="eyespot {__version__}">
 <rdf:RDF xmlns:rdf="{_RDF}"/>
</x:xmpmeta>"""
_ROOTS = {"{adobe:ns:meta/}xmpmeta", "{adobe:ns:meta/}xapmeta"}  # the second is in old files

_SUBJECT = f"{{{_DC}}}subject"
_ABOUT = f"{{{_RDF}}}about"
_WHOLE = f"{{{_RDF}}}RDF"
_DESCRIPTION = f"{{{_RDF}}}Description"
_ITEM = f"{{{_RDF}}}li"
_LISTS = {f"{{{_RDF}}}{kind}" for kind in ("Bag", "Seq", "Alt")}
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"

# What is no Char of XML 1.0, section 2.2.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Unmergeable(Exception):
    """Why a document is left alone."""


def sidecar(photograph: Path) -> Path:
    """Where the keywords of a photograph are: photo.jpg.xmp for photo.jpg, so that photo.png has another."""
    return photograph.with_name(f"{photograph.name}.xmp")


def add_keywords(photograph: Path, keywords: Iterable[str]) -> None:
    """Add keywords to those in the sidecar, which is made when there is none. What else is in it stays.

    Keywords that are there already, in capitals or not, are not added; when none is left, nothing is written. What XML
    cannot hold, control characters, is left out of a keyword. A sidecar is UTF-8 after that, whatever it was before.

    Raises:
        SidecarUnreadable: what has the name of the sidecar is no XMP that keywords can be added to; it stays as it is.
        OSError: the sidecar cannot be read or written; it stays as it is.
    """
    path = Path(os.path.realpath(sidecar(photograph)))  # so that a link stays, and what it leads to is replaced
    try:
        merged = _merge(_read(path), keywords)
    except _Unmergeable as error:
        raise SidecarUnreadable(f"{path} is no XMP that keywords can be added to: {error}.") from error
    if merged is not None:
        _write(path, merged)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _NEW.encode()
    if not stat.S_ISREG(mode):  # to open a pipe would be to wait
        raise _Unmergeable("it is no file")
    return path.read_bytes()


def _merge(document: bytes, keywords: Iterable[str]) -> bytes | None:
    """The document with the keywords in it, or None when it has them all."""
    root = _parse(document)
    items = _list(_description(_rdf(root)))
    known = {"", *(_folded(str(item.xpath("string()"))) for item in items.iterfind(_ITEM))}
    before = len(known)
    for keyword in keywords:
        cleaned = _FORBIDDEN.sub("", keyword).strip()
        if _folded(cleaned) not in known:
            known.add(_folded(cleaned))
            _append(items, _ITEM).text = cleaned
    return _serialised(root) if len(known) > before else None


def _folded(keyword: str) -> str:
    return keyword.strip().casefold()


def _parse(document: bytes) -> etree._Element:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )
    try:
        root = etree.fromstring(document, parser)
    except etree.XMLSyntaxError as error:
        raise _Unmergeable(error.msg) from error
    if root.getroottree().docinfo.internalDTD is not None:  # XMP has none, and entities are made in it
        raise _Unmergeable("it has a DOCTYPE")
    return root


def _rdf(root: etree._Element) -> etree._Element:
    if root.tag == _WHOLE:
        return root
    found = root.findall(_WHOLE) if root.tag in _ROOTS else []
    if len(found) != 1:
        raise _Unmergeable(f"it has {len(found)} rdf:RDF in an x:xmpmeta")
    return found[0]


def _description(rdf: etree._Element) -> etree._Element:
    """The rdf:Description that has keywords, or else one that may have them."""

    def rank(description: etree._Element) -> int:
        if description.find(_SUBJECT) is not None or _SUBJECT in description.attrib:
            return 0
        return 2 if description.get(_ABOUT) else 1

    found = sorted(rdf.iterfind(_DESCRIPTION), key=rank)
    if found:
        return found[0]
    description = _append(rdf, _DESCRIPTION)
    description.set(_ABOUT, "")
    return description


def _list(description: etree._Element) -> etree._Element:
    """The rdf:Bag, rdf:Seq or rdf:Alt of the keywords, with the one in it that was there without a list."""
    subject = description.find(_SUBJECT)
    if subject is None:
        subject = _append(description, _SUBJECT)
        subject.text = description.get(_SUBJECT)
        description.attrib.pop(_SUBJECT, "")
    values = subject.findall("*")
    if not set(subject.attrib) <= {_LANGUAGE} or len(values) > 1 or any(value.tag not in _LISTS for value in values):
        raise _Unmergeable("its dc:subject is no list of keywords")
    return values[0] if values else _listed(subject)


def _listed(subject: etree._Element) -> etree._Element:
    text = str(subject.xpath("string()")).strip()
    subject.text = None
    for comment in subject:
        comment.tail = None
    bag = _append(subject, f"{{{_RDF}}}Bag")
    if text:
        item = _append(bag, _ITEM)
        item.text = text
        item.attrib.update(subject.attrib)
        subject.attrib.clear()
    return bag


def _append(parent: etree._Element, tag: str) -> etree._Element:
    """A new last child, on a line of its own when the others are; lxml knows the prefixes rdf and dc."""
    child = etree.SubElement(parent, tag)
    if (parent.text or "").strip():
        return child
    before = child.getprevious()
    if before is not None:
        before.tail, child.tail = parent.text, before.tail
    else:
        depth = len(list(parent.iterancestors()))
        parent.text, child.tail = "\n" + " " * (depth + 1), "\n" + " " * depth
    return child


def _serialised(root: etree._Element) -> bytes:
    """As UTF-8, with the comments and the <?xpacket?> before and after the root, each on a line of its own."""
    nodes = [*reversed(list(root.itersiblings(preceding=True))), root, *root.itersiblings()]
    lines = [etree.tostring(node, encoding="UTF-8", with_tail=False) for node in nodes]
    if root.getroottree().docinfo.standalone is not None:  # it has an XML declaration
        lines.insert(0, b'<?xml version="1.0" encoding="UTF-8"?>')
    return b"\n".join(lines) + b"\n"


def _write(path: Path, document: bytes) -> None:
    """A whole file or none, on the disk, with the permissions of the one that was there."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            if path.exists():
                unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
