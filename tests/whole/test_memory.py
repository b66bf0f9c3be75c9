"""What images take of the server's memory, and that they give it back."""

import gc
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eyespot.errors import Refusal
from tests import makers
from tests.serving import ROOT, Served, serve_process

SQUARE = (3535, 3535)  # as many pixels as a PNG or WebP may have
ADMITTED = {"200", "overloaded"}
REFUSED = [makers.jpeg()[:3000], makers.many_scans(150), makers.png_claiming(9000, 9000), b"GIF89a"]


def test_a_refused_image_leaves_nothing_for_the_garbage_collector(fake: Served) -> None:
    """It gets to the oldest objects so seldom that hundreds of refused images of 5 MB would wait for it."""
    files = [("file", (f"{number}", data)) for number, data in enumerate(REFUSED)]
    gc.collect()
    gc.disable()
    try:
        with fake.client() as client:
            for data in REFUSED * 3:
                assert client.post("/predict", content=data).status_code in (415, 422)
            refused = [
                item["problem"]["status"] for item in client.post("/predict/batch", files=files).json()["results"]
            ]
            assert refused == [422, 422, 422, 415]
            assert client.get("/livez").status_code == 200
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [found for found in gc.garbage if isinstance(found, Refusal)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def memory(served: Served, what: str) -> float:
    """Megabytes of the server's process."""
    assert served.process
    found = re.search(what + r":\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def padded(data: bytes, number: int) -> bytes:
    """An image of as many bytes as are allowed, unlike the others; decoders look no further than its end."""
    return data + bytes(5 * 1024 * 1024 - 8 - len(data)) + number.to_bytes(8)


def send(served: Served, data: bytes) -> str:
    with served.client() as client:
        reply = client.post("/predict", content=data, timeout=300)
    return str(reply.json().get("code", reply.status_code))


def send_batch(served: Served, images: list[bytes]) -> str:
    files = [("file", (f"{number}", data)) for number, data in enumerate(images)]
    with served.client() as client:
        return str(client.post("/predict/batch", files=files, timeout=300).status_code)


def manual() -> tuple[list[list[float]], dict[str, str]]:
    """Megabytes that openapi.md gives each part of the server, and their sum, by default and for a small container; the
    settings of the latter.
    """
    _, _, section = (ROOT / "openapi.md").read_text().partition("\n## Fit it into 512 MB\n")
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| .* \| \**([\d,]+)\** \| \**([\d,]+)\** \|$", section, re.MULTILINE)
    small = dict(re.findall(r"^(EYESPOT_\w+)=(\S+)$", section, re.MULTILINE))
    return [[float(cell.replace(",", "")) for cell in column] for column in zip(*rows, strict=True)], small


def mebibytes(words: str) -> float:
    """The limit in docker-compose.yml or in the manual that those words precede, in megabytes."""
    texts = [(ROOT / name).read_text() for name in ("docker-compose.yml", "openapi.md")]
    found = re.search(words + r"(\d+)m", "".join(texts))
    assert found
    return int(found[1]) * 1024**2 / 1e6


def test_the_table_of_the_manual_adds_up() -> None:
    columns, small = manual()
    for *parts, total in columns:
        assert len(parts) == 5
        assert sum(parts) == total
    assert len(small) == 4
    assert columns[0][-1] < mebibytes("MEMORY:-")
    assert columns[1][-1] < mebibytes("--memory ")


@pytest.mark.needs("make test-all")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process took")
@pytest.mark.parametrize("small", [False, True], ids=["default", "512 MB"])
def test_a_flood_of_the_worst_images_takes_what_the_manual_says_and_gives_it_back(
    packaged: dict[str, str], small: bool
) -> None:
    """With default settings, or those for 512 MB; but with a deadline that all can keep, and the default workers are
    those of 2 processors.
    """
    columns, settings = manual()
    settings = settings if small else {"EYESPOT_WORKERS": "3"}
    progressive = {"progressive": True, "subsampling": "4:4:4"}
    kinds = [
        makers.encode(makers.flat((6000, 4000)), **progressive),
        makers.encode(makers.flat((5000, 5000)), **progressive),
        makers.encode(makers.flat((65500, 381)), **progressive),
        makers.encode(makers.flat((5000, 5000), 0, "CMYK"), progressive=True),
        makers.encode(makers.flat((65500, 381), 0, "CMYK")),
        makers.not_interleaved((65500, 381)),
        makers.encode(makers.flat(SQUARE, 0, "RGBA"), "WEBP", lossless=True, method=0),
        makers.encode(makers.flat(SQUARE), "WEBP", method=0),
    ]
    pngs = [makers.encode(makers.flat(SQUARE, 0, mode), "PNG", compress_level=1) for mode in ("RGBA", "LA", "I;16")]
    images = [padded(kinds[number % len(kinds)], number) for number in range(60)]
    images += [padded(pngs[number % len(pngs)], 100 + number) for number in range(20)]
    batches = [
        [padded((kinds + pngs)[number % 11], 200 + number + 100 * which) for number in range(3 if small else 12)]
        for which in (0, 1)
    ]
    with serve_process(**packaged, **settings, EYESPOT_DEADLINE_SECONDS="300") as served:
        with ThreadPoolExecutor(100) as pool:
            assert set(pool.map(send, [served] * 40, (makers.jpeg() + bytes([n]) for n in range(40)))) <= ADMITTED
            before = memory(served, "VmRSS")
            both = [pool.submit(send_batch, served, batch) for batch in batches]
            answers = Counter(pool.map(send, [served] * len(images), images))
            assert [batch.result() for batch in both] == ["200", "200"]
        after = memory(served, "VmRSS")
        assert set(answers) <= {*ADMITTED, "too-much-memory"}
        assert small or answers["200"] > 40
        assert small or answers["too-much-memory"] > 15
        assert memory(served, "VmHWM") < columns[small][-1]
        assert after - before < 100
