"""Keywords are added to the sidecar of a photograph, and nothing else of either is changed."""

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from eyespot import __version__
from eyespot.cli.xmp import add_keywords, sidecar
from eyespot.errors import SidecarUnreadable
from tests import makers

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"

# As photo programs write it, with more in it than we know of.
ALBUM = f"""<?xml version="1.0" encoding="UTF-8"?>
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- written by hand -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Album 1.0">
  <rdf:RDF xmlns:rdf="{RDF}">
    <?album keep?>
    <rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" rdf:about="" xmp:Rating="4" xmp:Label="a &quot;b&quot;"/>
    <rdf:Description xmlns:mine="urn:mine" xmlns:purl="{DC}" rdf:about="">
      <purl:subject>
        <rdf:Bag>
          <!-- the first -->
          <rdf:li>Sea</rdf:li>
          <rdf:li><![CDATA[salt & pepper]]></rdf:li>
        </rdf:Bag>
      </purl:subject>
      <mine:note mine:colour="grün">  one
 two &amp; three </mine:note>
    </rdf:Description>
  </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>
"""


def document(descriptions: str) -> str:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{DC}">{descriptions}'
        "</rdf:RDF></x:xmpmeta>"
    )


def described(inside: str, attributes: str = "") -> str:
    return document(f'<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description>')


def listed(*words: str, kind: str = "Bag") -> str:
    return f"<rdf:{kind}>{''.join(f'<rdf:li>{word}</rdf:li>' for word in words)}</rdf:{kind}>"


def subject(*words: str, kind: str = "Bag") -> str:
    return f"<dc:subject>{listed(*words, kind=kind)}</dc:subject>"


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(makers.jpeg())
    return path


def with_sidecar(photograph: Path, content: str | bytes) -> Path:
    path = sidecar(photograph)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def merged(photograph: Path, content: str | bytes, *keywords: str) -> str:
    """What becomes of a sidecar."""
    path = with_sidecar(photograph, content)
    add_keywords(photograph, keywords)
    return path.read_text(encoding="utf-8")


def words(document: str | bytes) -> list[str]:
    """Every keyword in every dc:subject, as another parser sees them."""
    root = ElementTree.fromstring(document)
    return ["".join(item.itertext()) for item in root.findall(f".//{{{DC}}}subject/*/{{{RDF}}}li")]


def exiftool(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run(["exiftool", "-j", "-G1", "-struct", *arguments], check=True, capture_output=True)
    (tags,) = json.loads(done.stdout)
    return {name: value for name, value in tags.items() if name.startswith("XMP")}


def touched_long_ago(path: Path) -> tuple[int, int]:
    os.utime(path, (1e9, 1e9))
    return written(path)


def written(path: Path) -> tuple[int, int]:
    """Differs once the file was written, also by replacing it."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_the_sidecar_has_the_whole_name_of_the_photograph() -> None:
    assert sidecar(Path("photos/photo.jpg")) == Path("photos/photo.jpg.xmp")
    assert sidecar(Path("a.b/c.tar.JPEG")) == Path("a.b/c.tar.JPEG.xmp")


def test_a_new_sidecar_holds_the_keywords_in_order(photograph: Path) -> None:
    add_keywords(photograph, ["tabby cat", "Egyptian cat", "basket"])
    assert sidecar(photograph).read_text() == (
        f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="eyespot {__version__}">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="">
   <dc:subject xmlns:dc="{DC}">
    <rdf:Bag>
     <rdf:li>tabby cat</rdf:li>
     <rdf:li>Egyptian cat</rdf:li>
     <rdf:li>basket</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
    )


def test_the_photograph_is_not_touched(photograph: Path) -> None:
    before = touched_long_ago(photograph), photograph.read_bytes()
    add_keywords(photograph, ["cat"])
    add_keywords(photograph, ["dog"])
    assert (written(photograph), photograph.read_bytes()) == before
    assert {path.name for path in photograph.parent.iterdir()} == {"photo.jpg", "photo.jpg.xmp"}


def test_everything_else_stays_to_the_byte(photograph: Path) -> None:
    last = "<rdf:li><![CDATA[salt & pepper]]></rdf:li>\n"
    expected = ALBUM.replace(last, f"{last}          <rdf:li>gull</rdf:li>\n          <rdf:li>猫 🐈</rdf:li>\n")
    assert merged(photograph, ALBUM, "gull", "猫 🐈") == expected


@pytest.mark.needs("exiftool")
def test_exiftool_reads_a_new_and_a_merged_sidecar(photograph: Path) -> None:
    add_keywords(photograph, ["tabby cat", "<&\"'>"])
    assert exiftool("-XMP-dc:Subject", sidecar(photograph)) == {"XMP-dc:Subject": ["tabby cat", "<&\"'>"]}
    add_keywords(photograph, ["猫 🐈"])
    assert exiftool("-XMP-dc:Subject", sidecar(photograph)) == {"XMP-dc:Subject": ["tabby cat", "<&\"'>", "猫 🐈"]}


@pytest.mark.needs("exiftool")
def test_exiftool_finds_everything_it_wrote(photograph: Path) -> None:
    path = sidecar(photograph)
    tags = ["-XMP-dc:Subject=holiday", "-XMP-dc:Title=Über & out", "-XMP-dc:Title-de=Titel", "-XMP-xmp:Rating=4"]
    tags += ["-XMP-dc:Creator=A", "-XMP-dc:Creator=B", "-XMP-exif:GPSLatitude=48.1", "-XMP-lr:HierarchicalSubject=a|b"]
    tags += ["-XMP-mwg-rs:RegionInfo={RegionList=[{Name=Ann,Type=Face,Area={X=0.5,Y=0.5,Unit=normalized}}]}"]
    subprocess.run(["exiftool", "-q", *tags, path], check=True)
    before = exiftool(path)
    assert len(before) == 9  # with the toolkit's name
    add_keywords(photograph, ["cat", "Holiday"])
    assert exiftool(path) == {**before, "XMP-dc:Subject": ["holiday", "cat"]}


@pytest.mark.parametrize("kind", ["Bag", "Seq", "Alt"])
def test_an_existing_list_is_extended(photograph: Path, kind: str) -> None:
    result = merged(photograph, described(subject("sea", "sand", kind=kind)), "cat", "dog")
    assert words(result) == ["sea", "sand", "cat", "dog"]
    assert result.count(f"<rdf:{kind}>") == 1
    assert result.count("<dc:subject>") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (described("<dc:subject>cat &amp; mouse</dc:subject>"), ["cat & mouse", "dog"]),
        (described("<dc:subject> c<!-- -->at </dc:subject>"), ["cat", "dog"]),
        (described("", 'dc:subject="cat &amp; mouse"'), ["cat & mouse", "dog"]),
        (described("<dc:subject/>"), ["dog"]),
        (described("<dc:subject>\n </dc:subject>"), ["dog"]),
        (described("<dc:subject><rdf:Bag/></dc:subject>"), ["dog"]),
        (described("", 'dc:subject=""'), ["dog"]),
        (described(""), ["dog"]),
        (document(""), ["dog"]),
    ],
)
def test_a_lone_keyword_becomes_a_bag(photograph: Path, content: str, expected: list[str]) -> None:
    result = merged(photograph, content, "dog")
    (found,) = ElementTree.fromstring(result).findall(f"*/{{{RDF}}}Description/{{{DC}}}subject")
    assert [element.tag for element in found] == [f"{{{RDF}}}Bag"]
    assert words(result) == expected
    assert "".join(found.itertext()).split() == " ".join(expected).split()
    assert 'dc:subject="' not in result


def test_a_keyword_keeps_its_language(photograph: Path) -> None:
    result = merged(photograph, described('<dc:subject xml:lang="de">Katze</dc:subject>'), "dog")
    assert '<rdf:li xml:lang="de">Katze</rdf:li>' in result
    assert "<rdf:li>dog</rdf:li>" in result
    assert result.count("xml:lang") == 1


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (document(f'<rdf:Description rdf:about=""/><rdf:Description rdf:about="u">{subject()}</rdf:Description>'), "u"),
        (document('<rdf:Description rdf:about=""/><rdf:Description rdf:about="u" dc:subject="a"/>'), "u"),
        (document('<rdf:Description rdf:about="u"/><rdf:Description rdf:about=""/>'), ""),
        (document('<rdf:Description rdf:about="u"/><rdf:Description/>'), None),
        (document('<rdf:Description rdf:about="u"/><rdf:Description rdf:about="v"/>'), "u"),
        (document(""), ""),
    ],
)
def test_keywords_join_other_keywords_or_a_description_of_this_file(
    photograph: Path, content: str, about: str | None
) -> None:
    root = ElementTree.fromstring(merged(photograph, content, "dog"))
    (found,) = (each for each in root.iter(f"{{{RDF}}}Description") if each.find(f"{{{DC}}}subject") is not None)
    assert found.get(f"{{{RDF}}}about") == about


def test_keywords_of_an_embedded_image_are_not_this_images(photograph: Path) -> None:
    other = f'<p:Pantry xmlns:p="urn:p"><rdf:Bag><rdf:li><rdf:Description>{subject("sea")}</rdf:Description></rdf:li>'
    result = merged(photograph, described(f"{other}</rdf:Bag></p:Pantry>"), "sea")
    assert words(result) == ["sea", "sea"]
    assert other in result


@pytest.mark.parametrize(
    "content",
    [
        f'<rdf:RDF xmlns:rdf="{RDF}"/>',
        f'<x:xapmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xapmeta>',
        f'<RDF xmlns="{RDF}"/>',
        f'<r:RDF xmlns:r="{RDF}"><r:Description xmlns:dc="urn:other" xmlns:rdf="urn:another" dc:subject="b"/></r:RDF>',
    ],
)
def test_roots_and_prefixes_of_all_kinds_are_read(photograph: Path, content: str) -> None:
    result = merged(photograph, content, "dog", "cat")
    assert words(result) == ["dog", "cat"]
    assert result.startswith(content.partition("/>")[0].partition("><r:")[0])


@pytest.mark.parametrize(
    "content",
    [
        ALBUM.encode("utf-8-sig"),
        ALBUM.replace("UTF-8", "UTF-16").encode("utf-16"),
        ALBUM.partition("\n")[2].encode("utf-16"),
        ALBUM.partition("\n")[2].encode("utf-16-be"),
        ALBUM.replace("UTF-8", "ISO-8859-1").replace("\ufeff", "").encode("latin-1"),
    ],
    ids=["with a byte order mark", "UTF-16", "UTF-16 undeclared", "UTF-16 without a mark", "Latin 1"],
)
def test_other_encodings_become_utf_8(photograph: Path, content: bytes) -> None:
    result = merged(photograph, content, "猫")
    assert words(result) == ["Sea", "salt & pepper", "猫"]
    assert "grün" in result
    assert "UTF-16" not in result
    assert "ISO-8859-1" not in result
    assert result.startswith(("<?xml ", "<?xpacket "))


def test_existing_keywords_are_not_added_again(photograph: Path) -> None:
    result = merged(
        photograph, described(subject(" Sea ", "STRASSE")), "sea", "\tSEA ", "straße", "cat", "Cat", " cat", ""
    )
    assert words(result) == [" Sea ", "STRASSE", "cat"]


def test_without_new_keywords_nothing_is_written(photograph: Path) -> None:
    path = with_sidecar(photograph, described("", 'dc:subject="cat"'))
    before = touched_long_ago(path)
    for keywords in (["cat"], [], ["CAT", " ", "\0"]):
        add_keywords(photograph, keywords)
        assert written(path) == before


@pytest.mark.parametrize("keywords", [[], [""], [" \n"], ["\x00\x07"], ["\ud800"]])
def test_without_keywords_there_is_no_sidecar(photograph: Path, keywords: list[str]) -> None:
    add_keywords(photograph, keywords)
    assert not sidecar(photograph).exists()


def test_control_characters_are_removed(photograph: Path) -> None:
    add_keywords(photograph, ["a\0b\x1bc\x0bd\ufffee\uffff", "\x07 tab\tline\nreturn\r\x85. "])
    assert words(sidecar(photograph).read_bytes()) == ["abcde", "tab\tline\nreturn\r\x85."]


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))))
def test_keywords_of_any_text_come_back(keywords: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photo.jpg"
        add_keywords(photograph, ["first", *keywords])
        found = words(sidecar(photograph).read_bytes())
    first = {
        keyword.strip().casefold(): keyword.strip() for keyword in reversed(["first", *keywords]) if keyword.strip()
    }
    assert sorted(found) == sorted(first.values())


@given(st.lists(st.text(st.characters())), st.lists(st.text()))
def test_a_second_run_writes_nothing(there: list[str], keywords: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photo.jpg"
        add_keywords(photograph, ["first", *there])
        add_keywords(photograph, keywords)
        before = touched_long_ago(sidecar(photograph))
        add_keywords(photograph, [*keywords, *there])
        assert written(sidecar(photograph)) == before


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
TWO = 2 * f'<rdf:RDF xmlns:rdf="{RDF}"/>'
UNMERGEABLE: dict[str, str | bytes] = {
    "empty": "",
    "only a byte order mark": "\ufeff",
    "a photograph": makers.jpeg(),
    "zeros": bytes(4096),
    "text": "cat, dog",
    "HTML": "<html><body>cat</body></html>",
    "no XML": described("<dc:subject>cat & dog</dc:subject>"),
    "no UTF-8": described("<dc:subject>gr\xfcn</dc:subject>").encode("latin-1"),
    "an unknown encoding": '<?xml version="1.0" encoding="klingon"?>' + described(""),
    "an unknown prefix": described("<cat:dog/>"),
    "an unknown entity": described("<dc:subject>&cat;</dc:subject>"),
    "another RDF": '<rdf:RDF xmlns:rdf="urn:rdf"/>',
    "no RDF": '<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
    "two RDF": f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{TWO}</x:xmpmeta>',
    "RDF elsewhere": f'<a><rdf:RDF xmlns:rdf="{RDF}"/></a>',
    "RDF deeper": f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a><rdf:RDF xmlns:rdf="{RDF}"/></a></x:xmpmeta>',
    "a keyword of ten megabytes": described(subject("a" * 10_000_001)),
    "two lists": described(f"<dc:subject>{listed('a')}{listed('b')}</dc:subject>"),
    "a keyword that is a URL": described('<dc:subject rdf:resource="http://cat"/>'),
    "a keyword with a structure": described(
        '<dc:subject rdf:parseType="Resource"><rdf:value>a</rdf:value></dc:subject>'
    ),
    "a structure": described("<dc:subject><rdf:Description/></dc:subject>"),
    "a DOCTYPE": "<!DOCTYPE a>" + described(""),
    "an entity": "<!DOCTYPE a [<!ENTITY a 'cat'>]>" + described("<dc:subject>&a;</dc:subject>"),
    "a file's text": "<!DOCTYPE a [<!ENTITY a SYSTEM '/etc/passwd'>]>" + described("<dc:subject>&a;</dc:subject>"),
    "another's DTD": "<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'>" + described("<dc:subject>&a;</dc:subject>"),
    "a bomb": f"<!DOCTYPE a [<!ENTITY e0 'ha'>{BOMB}]>" + described("<dc:subject>&e9;</dc:subject>"),
    "a bomb in an attribute": f"<!DOCTYPE a [<!ENTITY e0 'ha'>{BOMB}]>" + described("", 'dc:subject="&e9;"'),
    "a deep well": document("<rdf:Description>" * 100_000 + "</rdf:Description>" * 100_000),
}


def refused(photograph: Path, content: str | bytes) -> str:
    """What is said of a sidecar that stays as it is."""
    path = with_sidecar(photograph, content)
    before = touched_long_ago(path), path.read_bytes(), set(path.parent.iterdir())
    with pytest.raises(SidecarUnreadable) as error:
        add_keywords(photograph, ["dog"])
    assert (written(path), path.read_bytes(), set(path.parent.iterdir())) == before
    return error.value.detail


@pytest.mark.parametrize("what", UNMERGEABLE)
def test_a_file_that_cannot_take_keywords_is_unchanged(photograph: Path, what: str) -> None:
    assert refused(photograph, UNMERGEABLE[what]).startswith(f"{sidecar(photograph)} is not an XMP file")


def test_a_truncated_file_is_unchanged(photograph: Path) -> None:
    whole = ALBUM.partition("<?xpacket end")[0].strip().encode()
    for length in range(len(whole)):
        refused(photograph, whole[:length])


@given(st.binary(max_size=200), st.integers(0, len(ALBUM)), st.integers(0, len(ALBUM)))
@example("\u0482".encode(), 267, 271)  # a name that libxml2 accepts and expat refuses, by editions of XML 1.0
def test_any_bytes_are_merged_or_unchanged(noise: bytes, start: int, end: int) -> None:
    content = ALBUM.encode()[:start] + noise + ALBUM.encode()[end:]
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photo.jpg"
        path = with_sidecar(photograph, content)
        try:
            add_keywords(photograph, ["dog"])
        except SidecarUnreadable:
            assert path.read_bytes() == content
        else:
            items = etree.fromstring(path.read_bytes()).iterfind(f".//{{{DC}}}subject/*/{{{RDF}}}li")
            assert "dog" in [item.text for item in items]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_unchanged(photograph: Path, make: Callable[[Path], None]) -> None:
    make(sidecar(photograph))
    with pytest.raises(SidecarUnreadable, match="it is not a file"):
        add_keywords(photograph, ["dog"])
    assert len(list(photograph.parent.iterdir())) == 2


def test_an_error_of_the_system_names_the_sidecar(tmp_path: Path) -> None:
    with pytest.raises(SidecarUnreadable, match=r"^cannot update .*photo\.jpg\.xmp: no such file$"):
        add_keywords(tmp_path / "gone" / "photo.jpg", ["dog"])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_sidecar_has_the_permissions_of_any_new_file(photograph: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        add_keywords(photograph, ["dog"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(sidecar(photograph).stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_merged_sidecar_keeps_its_permissions(photograph: Path, mode: int) -> None:
    path = with_sidecar(photograph, ALBUM)
    path.chmod(mode)
    add_keywords(photograph, ["dog"])
    assert "dog" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_and_its_target_is_merged(photograph: Path) -> None:
    target = photograph.parent / "elsewhere" / "1.xmp"
    target.parent.mkdir()
    sidecar(photograph).symlink_to(Path("elsewhere", "1.xmp"))
    for keyword in ("cat", "dog"):  # first it leads nowhere
        add_keywords(photograph, [keyword])
        assert sidecar(photograph).is_symlink()
    assert words(target.read_text()) == ["cat", "dog"]
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_itself_is_refused(photograph: Path) -> None:
    sidecar(photograph).symlink_to(sidecar(photograph))
    with pytest.raises(SidecarUnreadable, match=r"cannot update .*\.xmp: too many levels of symbolic links"):
        add_keywords(photograph, ["dog"])


def test_a_sidecar_is_replaced_once_the_new_one_is_on_the_disk(
    photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_sidecar(photograph, ALBUM)
    seen: list[tuple[str, int]] = []

    def fsync(file: int) -> None:
        assert path.read_text() == ALBUM
        (unfinished,) = set(path.parent.iterdir()) - {path, photograph}
        seen.append((unfinished.name, unfinished.stat().st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    add_keywords(photograph, ["dog"])
    ((name, size),) = seen
    assert name.startswith(".")
    assert name.endswith(".part")
    assert size == path.stat().st_size > len(ALBUM.encode())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("content", [None, ALBUM])
def test_a_failed_write_changes_nothing(
    photograph: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, content: str | None
) -> None:
    if content:
        with_sidecar(photograph, content)
    before = {path: path.read_bytes() for path in photograph.parent.iterdir()}

    def fsync(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SidecarUnreadable if isinstance(error, OSError) else type(error)):
        add_keywords(photograph, ["dog"])
    assert {path: path.read_bytes() for path in photograph.parent.iterdir()} == before
