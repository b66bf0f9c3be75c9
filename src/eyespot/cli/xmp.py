"""Keywords in XMP sidecars, the files beside photographs in which photo programs keep metadata.

In XMP (ISO 16684-1), keywords are the items of an rdf:Bag in dc:subject.
"""

import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from lxml import etree

from eyespot._version import __version__
from eyespot.cli.formats import reason
from eyespot.cli.replacing import replacing
from eyespot.errors import SidecarUnreadable

_DC = "http://purl.org/dc/elements/1.1/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NEW = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="eyespot {__version__}">
 <rdf:RDF xmlns:rdf="{_RDF}"/>
</x:xmpmeta>"""
_ROOTS = {"{adobe:ns:meta/}xmpmeta", "{adobe:ns:meta/}xapmeta"}  # the second is in old files
_SUBJECT = f"{{{_DC}}}subject"
_ROOT, _DESCRIPTION, _ABOUT, _BAG, _ITEM = (
    f"{{{_RDF}}}{name}" for name in ("RDF", "Description", "about", "Bag", "li")
)
_LISTS = {_BAG, f"{{{_RDF}}}Seq", f"{{{_RDF}}}Alt"}
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def sidecar(photograph: Path) -> Path:
    """The path of a photograph's keywords: photo.jpg.xmp for photo.jpg, so that photo.png has another."""
    return photograph.with_name(f"{photograph.name}.xmp")


def add_keywords(photograph: Path, keywords: Iterable[str]) -> None:
    """Add keywords to the sidecar, or make one; everything else in it stays, but it becomes UTF-8.

    Keywords that it has, in any case, are not added again, and the file is written only if there are new ones. Control
    characters, which XML cannot hold, are removed. Raises `SidecarUnreadable` if the file is not XMP with a list of
    keywords, or cannot be read or written; it is then unchanged.
    """
    path = sidecar(photograph)
    try:
        root = _parse(_read(path))
        if _add(_keyword_list(_description(root)), keywords):
            with replacing(path, secrets.token_hex(8)) as file:  # another run may be writing it, too
                file.write(_serialise(root))
    except OSError as error:
        raise SidecarUnreadable(f"cannot update {path}: {reason(error)}") from error
    except (etree.XMLSyntaxError, ValueError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error
        raise SidecarUnreadable(f"{path} is not an XMP file that can take keywords: {why}.") from error


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _NEW.encode()
    if not stat.S_ISREG(mode):  # opening a pipe would block
        raise ValueError("it is not a file")
    return path.read_bytes()


def _parse(document: bytes) -> etree._Element:
    root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, strip_cdata=False))
    if root.getroottree().docinfo.internalDTD is not None:  # not used in XMP, and it can define entities
        raise ValueError("it has a DOCTYPE")
    return root


def _description(root: etree._Element) -> etree._Element:
    """The rdf:Description with keywords, or else the best place for them: one about this file, any, or a new one."""
    roots = [root] if root.tag == _ROOT else root.findall(_ROOT) if root.tag in _ROOTS else []
    if len(roots) != 1:
        raise ValueError(f"it has {len(roots)} rdf:RDF in an x:xmpmeta")

    def rank(description: etree._Element) -> int:
        if description.find(_SUBJECT) is not None or _SUBJECT in description.attrib:
            return 0
        return 2 if description.get(_ABOUT) else 1

    found = sorted(roots[0].iterfind(_DESCRIPTION), key=rank)
    if not found:
        found = [_append(roots[0], _DESCRIPTION)]
        found[0].set(_ABOUT, "")
    return found[0]


def _keyword_list(description: etree._Element) -> etree._Element:
    """The list in dc:subject; a lone keyword, as text or as an attribute, becomes the first item of a new one."""
    subject = description.find(_SUBJECT)
    if subject is None:
        subject = _append(description, _SUBJECT)
        subject.text = description.get(_SUBJECT)
        description.attrib.pop(_SUBJECT, "")
    values = subject.findall("*")
    if not set(subject.attrib) <= {_LANGUAGE} or len(values) > 1 or any(value.tag not in _LISTS for value in values):
        raise ValueError("its dc:subject is not a list of keywords")
    if values:
        return values[0]
    keyword = str(subject.xpath("string()")).strip()
    subject.text = None
    for comment in subject:
        comment.tail = None
    bag = _append(subject, _BAG)
    if keyword:
        item = _append(bag, _ITEM)
        item.text = keyword
        item.attrib.update(subject.attrib)
        subject.attrib.clear()
    return bag


def _add(items: etree._Element, keywords: Iterable[str]) -> bool:
    """Whether a keyword was new."""
    known = {"", *(str(item.xpath("string()")).strip().casefold() for item in items.iterfind(_ITEM))}
    before = len(known)
    for keyword in (_NOT_XML.sub("", keyword).strip() for keyword in keywords):
        if keyword.casefold() not in known:
            known.add(keyword.casefold())
            _append(items, _ITEM).text = keyword
    return len(known) > before


def _append(parent: etree._Element, tag: str) -> etree._Element:
    """A new last child, indented as its siblings are; lxml knows the prefixes rdf and dc."""
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


def _serialise(root: etree._Element) -> bytes:
    """UTF-8, with the comments and the <?xpacket?> around the root, each on a line of its own."""
    nodes = [*reversed(list(root.itersiblings(preceding=True))), root, *root.itersiblings()]
    lines = [etree.tostring(node, encoding="UTF-8", with_tail=False) for node in nodes]
    if root.getroottree().docinfo.standalone is not None:  # it has an XML declaration
        lines.insert(0, b'<?xml version="1.0" encoding="UTF-8"?>')
    return b"\n".join(lines) + b"\n"
