"""`/v2`: what Triton's own client gets, and what no client of theirs would send."""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyespot.vision.engines import Features, Logits, Pixels
from eyespot.vision.export import SAMPLE
from tests import makers
from tests.requests import IMAGE, answered, image, predict
from tests.serving import RECIPE, FakeEngine, Served, serve_fake, until

SHADES = [makers.encode(makers.flat((40, 30), (shade, shade, shade)), "PNG") for shade in range(0, 256, 26)]
TOO_SMALL = makers.encode(makers.flat((2, 2)), "PNG")
NAMES = ("fake", "fake-tensor")
HEADER = "Inference-Header-Content-Length"
RAW = {HEADER: "0"}
BASE64 = base64.b64encode(IMAGE).decode()


@pytest.fixture
def client(fake: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(fake.url.removeprefix("http://")) as client:
        yield client


def tensor(images: list[bytes], binary: bool = True) -> triton.InferInput:
    """The images for Triton's client: in JSON as base64."""
    made = triton.InferInput("image", [len(images)], "BYTES")
    elements = images if binary else [base64.b64encode(image) for image in images]
    return made.set_data_from_numpy(np.array(elements, object), binary_data=binary)


def ask(served: Served, body: dict[str, Any], name: str = "fake", **options: Any) -> httpx.Response:
    with served.client() as client:
        return client.post(f"/v2/models/{name}/infer", json=body, **options)


def given_as(**changes: Any) -> dict[str, Any]:
    """A request for one image, changed."""
    one = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [BASE64]}
    return {"inputs": [{**one, **changes}]}


def confidences(served: Served, data: bytes) -> npt.NDArray[np.float64]:
    """Of all classes, in their order, as `/predict` has them."""
    with served.client() as client:
        found = client.post("/predict?top_k=10", content=data).json()["predictions"]
    return np.array([one["confidence"] for one in sorted(found, key=lambda one: one["class_id"])])


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, 4]},
    ]
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    pixels = [{"name": "pixels", "datatype": "UINT8", "shape": [-1, RECIPE.crop, RECIPE.crop, 3]}]
    for name, expected in zip(NAMES, (inputs, pixels), strict=True):
        assert client.is_model_ready(name)
        for version in ("", "000000000000"):
            found = client.get_model_metadata(name, version)
            assert found["versions"] == ["000000000000"]
            assert (found["name"], found["inputs"], found["outputs"]) == (name, expected, outputs)


@pytest.mark.parametrize("path", ["", "/ready", "/infer"])
@pytest.mark.parametrize("model", ["other", "fake/versions/1", "fake-tensor/versions/x"])
def test_there_is_no_other_model_and_no_other_version(fake: Served, model: str, path: str) -> None:
    with fake.client() as client:
        reply = client.request("POST" if path == "/infer" else "GET", f"/v2/models/{model}{path}", json=given_as())
    assert (reply.status_code, list(reply.json())) == (404, ["error"])
    assert ("this server has fake and fake-tensor" if model == "other" else "has 000000000000") in reply.json()["error"]


def test_a_server_that_drains_is_not_ready_and_says_why() -> None:
    with serve_fake() as served, served.client() as client:
        served.recognizer.pool.draining = True
        for path in ("health/ready", "models/fake/ready"):
            reply = client.get(f"/v2/{path}")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert reply.json() == {"error": "This server is stopping; try again after Retry-After."}
            assert reply.headers["content-type"] == "application/json"
        assert client.get("/v2/health/live").json() == {"live": True}


def test_probes_are_not_logged(fake: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "eyespot")
    with fake.client() as client:
        for path in ("health/live", "health/ready", "models/fake/ready", "models/fake/versions/000000000000/ready"):
            assert client.get(f"/v2/{path}").status_code == 200
        client.get("/v2")
    until(lambda: "request_answered" in caplog.messages)
    assert [record.__dict__["facts"]["route"] for record in caplog.records] == ["/v2"]


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_several_images_have_the_probabilities_of_predict(
    fake: Served, client: triton.InferenceServerClient, binary: bool, binary_output: bool
) -> None:
    output = triton.InferRequestedOutput("probabilities", binary_data=binary_output)
    found = client.infer("fake", [tensor(SHADES, binary)], outputs=[output], request_id="42")
    values = found.as_numpy("probabilities")
    assert (values.dtype, values.shape) == (np.float32, (10, 10))
    for row, data in zip(values, SHADES, strict=True):
        assert row == pytest.approx(confidences(fake, data), abs=1e-6)
    response = found.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("42", "fake", "000000000000")
    assert ("binary_data_size" in response["outputs"][0].get("parameters", {})) is binary_output


@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_base64_in_json_is_an_image_whatever_the_content_type_parameter(fake: Served, shape: list[int]) -> None:
    data = [BASE64] if shape == [1] else [[BASE64]]
    plain = ask(fake, given_as(shape=shape, data=data)).json()
    for parameters in ({"content_type": "base64"}, {"content_type": "str"}, None):
        assert ask(fake, given_as(shape=shape, data=data, parameters=parameters)).json() == plain
    (output,) = plain["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 10])
    assert output["data"] == pytest.approx(confidences(fake, IMAGE), abs=1e-6)
    assert "id" not in plain


def test_classifications_are_value_index_and_label(fake: Served, client: triton.InferenceServerClient) -> None:
    for binary in (True, False):
        output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
        found = client.infer("fake", [tensor(SHADES[:3])], outputs=[output]).as_numpy("probabilities")
        assert found.shape == (3, 2)
        for (best, _), data in zip(found, SHADES, strict=False):
            (expected,) = predict(fake, data, top_k=1).json()["predictions"]
            value, index, label = best.decode().split(":") if isinstance(best, bytes) else best.split(":")
            assert (int(index), label) == (expected["class_id"], expected["label"])
            assert float(value) == pytest.approx(expected["confidence"], abs=1e-6)
    reply = ask(fake, {**given_as(), "outputs": [{"name": "probabilities", "parameters": {"classification": 99}}]})
    assert reply.json()["outputs"][0]["shape"] == [1, 10]


def test_outputs_come_in_the_order_in_which_they_are_asked_for(client: triton.InferenceServerClient) -> None:
    asked = [
        triton.InferRequestedOutput("embedding"),
        triton.InferRequestedOutput("probabilities", binary_data=False),
        triton.InferRequestedOutput("probabilities", class_count=1),
    ]
    found = client.infer("fake", [tensor(SHADES[:2])], outputs=asked)
    outputs = found.get_response()["outputs"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in outputs] == [
        ("embedding", "FP32", [2, 4]),
        ("probabilities", "FP32", [2, 10]),
        ("probabilities", "BYTES", [2, 1]),
    ]
    assert outputs[0]["parameters"]["binary_data_size"] == 2 * 4 * 4
    # The fake engine's features are 0 to 195, in four maps of 49 cells: their means are 24, 73, 122 and 171.
    expected = np.array([24, 73, 122, 171]) / np.linalg.norm([24, 73, 122, 171])
    assert found.as_numpy("embedding") == pytest.approx(np.stack([expected, expected]), abs=1e-6)


class Watched(FakeEngine):
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[bool] = []
        self.pixels: list[Pixels] = []

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        self.features.append(features)
        self.pixels.append(pixels[0])
        return super().infer(pixels, features=features, exclusive=exclusive)


def test_an_embedding_is_computed_only_when_it_is_asked_for_and_its_scores_are_cached() -> None:
    engine = Watched()
    embedding = {**given_as(), "outputs": [{"name": "embedding"}]}
    with serve_fake(engine, cache_url="memory://") as served:
        assert ask(served, embedding).headers["x-cache"] == "miss"
        assert ask(served, given_as()).headers["x-cache"] == "hit"
        assert predict(served, IMAGE).headers["x-cache"] == "hit"
        assert ask(served, embedding).headers["x-cache"] == "miss"
        assert ask(served, given_as(data=[base64.b64encode(SHADES[0]).decode()])).headers["x-cache"] == "miss"
    assert engine.features == [True, True, False]


def crop_of(shade: int) -> npt.NDArray[np.uint8]:
    """A gradient that is the model's input already: the fake model's recipe neither resizes nor crops it away."""
    ramp = np.linspace(0, shade, RECIPE.crop, dtype=np.uint8)
    return np.broadcast_to(ramp[:, None, None], (RECIPE.crop, RECIPE.crop, 3)).copy()


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG whose centre crop is these pixels."""
    margin = (RECIPE.resize - RECIPE.crop) // 2
    return makers.encode(Image.fromarray(np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)))), "PNG")


def normalised(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(3, crop, crop), as torchvision's ToTensor and Normalize make it."""
    mean, std = (np.array(values, np.float32) for values in (RECIPE.mean, RECIPE.std))
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_a_tensor_is_the_model_s_own_input(
    fake: Served, client: triton.InferenceServerClient, datatype: str, binary: bool
) -> None:
    pixels = [crop_of(shade) for shade in (80, 160, 255)]
    made = np.stack(pixels if datatype == "UINT8" else [normalised(one) for one in pixels])
    sent = triton.InferInput("pixels", list(made.shape), datatype).set_data_from_numpy(made, binary_data=binary)
    found = client.infer("fake-tensor", [sent]).as_numpy("probabilities")
    assert found.argmax(1).tolist() == [1, 3, 4]
    for row, one in zip(found, pixels, strict=True):
        assert row == pytest.approx(confidences(fake, encoded(one)), abs=1e-6)


def test_a_tensor_of_floats_gives_the_pixels_that_it_was_made_from() -> None:
    engine = Watched()
    noise = np.random.default_rng(0).integers(0, 256, (RECIPE.crop, RECIPE.crop, 3), dtype=np.uint8)
    values = normalised(noise)[None]
    with serve_fake(engine) as served, served.client() as client:
        content, headers = json_then(values.tobytes(), "pixels", list(values.shape), "FP32")
        assert client.post("/v2/models/fake-tensor/infer", content=content, headers=headers).status_code == 200
    assert (engine.pixels[-1] == noise).all()


def json_then(data: bytes, name: str, shape: list[int], datatype: str) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and one binary tensor, and its header."""
    parameters = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}]})
    return head.encode() + data, {HEADER: str(len(head))}


def test_a_body_may_be_the_tensor_alone(fake: Served) -> None:
    pixels = crop_of(160)
    with fake.client() as client:
        for name, data in (("fake", encoded(pixels)), ("fake-tensor", pixels.tobytes())):
            reply = client.post(f"/v2/models/{name}/infer", content=data, headers=RAW)
            assert (reply.status_code, reply.headers["content-type"]) == (200, "application/octet-stream")
            length = int(reply.headers[HEADER])
            (output,) = json.loads(reply.content[:length])["outputs"]
            assert output["parameters"] == {"binary_data_size": 40}
            assert np.frombuffer(reply.content[length:], "<f4") == pytest.approx(
                confidences(fake, encoded(pixels)), abs=1e-6
            )


def test_spaces_around_the_length_are_no_part_of_it(fake: Served) -> None:
    with socket.create_connection(("127.0.0.1", fake.port), 30) as connection:
        head = (
            f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(IMAGE)}\r\n{HEADER}:  0  \r\n\r\n"
        )
        connection.sendall(head.encode() + IMAGE)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_the_protocol_s_own_example_fits_but_for_the_names(fake: Served) -> None:
    """The request of `inference_rest.md`, and the binary one of Triton's extension, with this model's names."""
    body = {**given_as(), "id": "42", "outputs": [{"name": "probabilities"}], "model_name": "mymodel"}
    assert ask(fake, body).json()["id"] == "42"
    elements = len(IMAGE).to_bytes(4, "little") + IMAGE
    content, headers = json_then(elements, "image", [1], "BYTES")
    head = json.loads(content[: int(headers[HEADER])])
    head["outputs"] = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    text = json.dumps(head, indent=2).encode()
    with fake.client() as client:
        reply = client.post(
            "/v2/models/fake/infer",
            content=text + elements,
            headers={HEADER: str(len(text)), "Content-Type": "application/octet-stream"},
        )
    assert reply.headers["content-length"] == str(int(reply.headers[HEADER]) + 40)


def test_the_example_of_the_document_is_answered(fake: Served) -> None:
    with fake.client() as client:
        infer = client.get("/openapi.json").json()["paths"]["/v2/models/{name}/infer"]["post"]
    example = infer["requestBody"]["content"]["application/json"]["example"]
    documented = infer["responses"]["200"]["content"]["application/json"]["example"]
    reply = ask(fake, example).json()
    assert reply.keys() == documented.keys()
    assert reply["outputs"][0] == {**documented["outputs"][0], "data": reply["outputs"][0]["data"]}


SIDE = RECIPE.crop
COUNT = 3 * SIDE**2
PIXELS = {"name": "pixels", "shape": [1, SIDE, SIDE, 3], "datatype": "UINT8"}
FLOATS = {"name": "pixels", "shape": [1, 3, SIDE, SIDE], "datatype": "FP32"}


def asking(**parameters: Any) -> dict[str, Any]:
    return {**given_as(), "outputs": [{"name": "probabilities", "parameters": parameters}]}


def pixels_as(first: Any, others: Any = 0, **changes: Any) -> dict[str, Any]:
    """A tensor whose first value differs from the others."""
    return {"inputs": [{**PIXELS, "data": [first, *[others] * (COUNT - 1)], **changes}]}


BAD: dict[str, tuple[str, Any, int, str]] = {
    "no object": ("fake", "x", 400, "must be an object with a list `inputs`"),
    "no inputs": ("fake", {"inputs": []}, 400, "has one input, `image`; the request has 0"),
    "two inputs": ("fake", {"inputs": given_as()["inputs"] * 2}, 400, "the request has 2"),
    "many inputs": ("fake", {"inputs": [{}] * 100_000}, 400, "`inputs` is too long: 100,000; the limit is 8"),
    "many outputs": ("fake", {**given_as(), "outputs": [1] * 100_000}, 400, "`outputs` is too long: 100,000"),
    "a long id": ("fake", {**given_as(), "id": "x" * 2000}, 400, "`id` is too long: 2,000; the limit is 1,024"),
    "another input": ("fake", given_as(name="x"), 400, "must be `image` with datatype BYTES, not 'x' with 'BYTES'"),
    "another type": ("fake", given_as(datatype="FP32"), 400, "not 'image' with 'FP32'"),
    "a long type": ("fake-tensor", pixels_as(0, datatype="x" * 10_000), 400, "…'"),
    "an image as a tensor": (
        "fake-tensor",
        given_as(name="pixels"),
        400,
        "`pixels` with datatype UINT8, not 'pixels' with",
    ),
    "a type that is none": ("fake-tensor", pixels_as(1, datatype="FP16"), 400, "as 'FP16'."),
    "a field too few": ("fake", {"inputs": [{"name": "image", "shape": [1]}]}, 400, "inputs.0.datatype is missing"),
    "a shape without images": (
        "fake",
        given_as(shape=[0], data=[]),
        400,
        "first dimension must be the number of images",
    ),
    "no shape": ("fake", given_as(shape=[]), 400, "first dimension"),
    "no list": ("fake", given_as(shape=None), 400, "inputs.0.shape: null is not a list of whole numbers"),
    "a shape of text": ("fake", given_as(shape=["1"]), 400, "inputs.0.shape.0: '1' is not a whole number"),
    "a shape of booleans": ("fake", given_as(shape=[True]), 400, "inputs.0.shape.0: true is not a whole number"),
    "a negative shape": ("fake", given_as(shape=[-1]), 400, "first dimension"),
    "a huge shape": ("fake", given_as(shape=[1, 10**4000]), 400, "inputs.0.shape.1"),
    "a long shape": ("fake", given_as(shape=[1] * 100_000), 400, "inputs.0.shape"),
    "another shape": ("fake", given_as(shape=[2]), 400, "data of `image` does not fit its shape, [2]"),
    "a square of images": ("fake", given_as(shape=[2, 2], data=[BASE64] * 4), 400, "its shape, [2, 2]"),
    "too many images": ("fake", given_as(shape=[65], data=[BASE64] * 65), 413, "has 65 images; the limit is 64"),
    "no data": ("fake", given_as(data=None), 400, "needs either `data`, or `binary_data_size`"),
    "a size and data": ("fake", given_as(parameters={"binary_data_size": 1}), 400, "needs either `data`"),
    "no base64": ("fake", given_as(data=["?"]), 400, "not valid base64"),
    "a number as an image": ("fake", given_as(data=[7]), 400, "must be a base64 string"),
    "no image": ("fake", given_as(data=["bm8gaW1hZ2U="]), 415, "not a JPEG, PNG or WebP"),
    "no output": ("fake", {**given_as(), "outputs": [{"name": "x"}]}, 400, "no output 'x'; it has probabilities and"),
    "no classes": ("fake", asking(classification=0), 400, "classification must be a whole number of at least 1"),
    "a boolean number": ("fake", asking(classification=True), 400, "classification must be a whole number"),
    "shared memory": ("fake", asking(shared_memory_region="x"), 400, "Shared memory is not supported"),
    "classes of an embedding": (
        "fake",
        {**given_as(), "outputs": [{"name": "embedding", "parameters": {"classification": 1}}]},
        400,
        "classification is for probabilities, not for embedding",
    ),
    "no boolean": ("fake", {**given_as(), "parameters": {"binary_data_output": 1}}, 400, "must be true or false"),
    "a tensor too short": ("fake-tensor", pixels_as(0, data=[1, 2]), 400, "does not fit its shape"),
    "a tensor of text": ("fake-tensor", pixels_as("1", ""), 400, "values that are not UINT8"),
    "a tensor of booleans": ("fake-tensor", pixels_as(True), 400, "values that are not UINT8"),
    "a tensor with a fraction": ("fake-tensor", pixels_as(0.5), 400, "values that are not UINT8"),
    "a tensor above 255": ("fake-tensor", pixels_as(256), 400, "values that are not UINT8"),
    "a tensor below 0": ("fake-tensor", pixels_as(-1), 400, "values that are not UINT8"),
    "a tensor of huge numbers": ("fake-tensor", pixels_as(10**400), 400, "values that are not UINT8"),
    "floats of huge numbers": ("fake-tensor", pixels_as(10**400, **FLOATS), 400, "values that are not FP32"),
    "floats beyond float32": ("fake-tensor", pixels_as(1e39, 0.5, **FLOATS), 400, "not normalised"),
    "a ragged tensor": ("fake-tensor", pixels_as(0, data=[[0] * COUNT, []]), 400, "does not fit its shape"),
    "a tensor nested otherwise": (
        "fake-tensor",
        pixels_as(0, data=np.zeros((1, 3, SIDE, SIDE), int).tolist()),
        400,
        "does not fit its shape",
    ),
    "a tensor of another side": (
        "fake-tensor",
        pixels_as(0, shape=[1, 3, 3, 3]),
        400,
        f"must have the shape [n, {SIDE}, {SIDE}, 3] as UINT8",
    ),
    "too many values": ("fake-tensor", {"inputs": [{**PIXELS, "data": [0] * 1_000_000}]}, 400, "as binary data"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_what_is_wrong(fake: Served, name: str) -> None:
    model, body, status, phrase = BAD[name]
    reply = ask(fake, body, model)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json")
    assert list(reply.json()) == ["error"]
    assert phrase in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "length", "phrase"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b"[]", "3", "at most the body's 2"),
        (b"[]", "-1", "at most the body's 2"),
        (b"[]", "9" * 5000, "at most the body's 2"),
        (b"", "0", "image is empty"),
    ],
)
def test_a_bad_length_is_told(fake: Served, content: bytes, length: str | None, phrase: str) -> None:
    with fake.client() as client:
        headers = {HEADER: length} if length else {}
        reply = client.post("/v2/models/fake/infer", content=content, headers=headers)
    assert reply.status_code == 400
    assert phrase in reply.json()["error"]


@pytest.mark.parametrize("change", [b"x", b"\xff\xff\xff\xff", b"\5\0\0\0"])
def test_binary_data_that_is_cut_is_refused(fake: Served, change: bytes) -> None:
    elements = len(IMAGE).to_bytes(4, "little") + IMAGE
    for data in (elements[:-1], elements + change):
        content, headers = json_then(data, "image", [1], "BYTES")
        with fake.client() as client:
            reply = client.post("/v2/models/fake/infer", content=content, headers=headers)
            assert (reply.status_code, list(reply.json())) == (400, ["error"])
            reply = client.post("/v2/models/fake/infer", content=content[:-1], headers=headers)
            assert "that many bytes after the JSON" in reply.json()["error"]


def test_binary_data_has_the_size_of_its_shape(fake: Served) -> None:
    for kind, values in ((FLOATS, normalised(crop_of(200)).tobytes()), (PIXELS, crop_of(200).tobytes())):
        for data in (values[:-1], values + b"x", values * 2):
            content, headers = json_then(data, "pixels", kind["shape"], kind["datatype"])
            with fake.client() as client:
                reply = client.post("/v2/models/fake-tensor/infer", content=content, headers=headers)
            assert (reply.status_code, "does not fit its shape" in reply.text) == (400, True)
    content, headers = json_then(len(IMAGE).to_bytes(4, "little") + IMAGE, "image", [1, 2], "BYTES")
    with fake.client() as client:
        reply = client.post("/v2/models/fake/infer", content=content, headers=headers)
    assert reply.json()["error"] == "The data of `image` does not fit its shape, [1, 2]."


def test_millions_of_empty_elements_are_not_unpacked(fake: Served) -> None:
    content, headers = json_then(bytes(40_000_000), "image", [64], "BYTES")
    with fake.client() as client:
        reply = client.post("/v2/models/fake/infer", content=content, headers=headers)
    assert reply.json()["error"] == "The data of `image` does not fit its shape, [64]."


def test_a_compressed_body_is_refused_in_words(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException, match="Content-Encoding 'gzip' is not supported") as caught:
        client.infer("fake", [tensor([IMAGE])], request_compression_algorithm="gzip")
    assert caught.value.status() == "415"


def test_pages_of_chosen_origins_may_use_the_binary_form() -> None:
    with serve_fake(cors_origins="https://example.org") as served, served.client() as client:
        origin = {"Origin": "https://example.org"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": HEADER.lower()}
        assert client.options("/v2/models/fake/infer", headers={**origin, **asked}).status_code == 200
        reply = client.post("/v2/models/fake/infer", content=IMAGE, headers={**origin, **RAW})
        assert HEADER in reply.headers["access-control-expose-headers"]


@pytest.mark.parametrize("count", [1, 3])
def test_each_request_has_its_facts_and_its_own_steps(count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "eyespot")
    images = [base64.b64encode(image(number)).decode() for number in range(count)]
    with serve_fake(cache_url="memory://") as served:
        reply = ask(served, given_as(shape=[count], data=images))
        until(lambda: "request_answered" in caplog.messages)
    (facts,) = (record.__dict__["facts"] for record in caplog.records)
    steps = re.findall(r"(\w+);desc", reply.headers["server-timing"])
    if count == 1:
        assert steps == ["admit", "read", "cache", "queue", "decode", "infer", "respond"]
        assert facts["sha256"] == hashlib.sha256(image(0)).hexdigest()
    else:
        assert steps == ["admit", "read", "respond"]
        assert facts["steps"]["respond"] < facts["ms"] / 2  # that of the images is theirs
    assert (facts["images"], facts["model"]) == (count, "fake")


@contextmanager
def busy(engine: FakeEngine, queue: int) -> Iterator[tuple[Served, ThreadPoolExecutor]]:
    """A server whose only worker computes until the block ends, and threads to ask it from."""
    with serve_fake(engine, workers=1, queue=queue) as served, ThreadPoolExecutor() as pool:
        engine.go.clear()
        first = pool.submit(predict, served, image(1))
        assert engine.started.acquire(timeout=30)
        yield served, pool
        engine.go.set()
        assert first.result().status_code == 200


def test_the_body_of_one_image_is_not_read_while_the_queue_is_full() -> None:
    with (
        busy(FakeEngine(), queue=0) as (served, _),
        socket.create_connection(("127.0.0.1", served.port), 30) as connection,
    ):
        head = "POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        connection.sendall(f"{head}{HEADER}: 0\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 503")


def test_small_batches_do_not_take_the_memory_of_single_images() -> None:
    engine = FakeEngine()
    large = IMAGE + bytes(150_000)
    two = given_as(shape=[2], data=[base64.b64encode(large + bytes([number])).decode() for number in range(2)])
    with serve_fake(engine, workers=1, queue=1, max_bytes=400_000) as served, ThreadPoolExecutor(8) as pool:
        engine.go.clear()
        waiting = []
        for number in range(1, 4):  # more together than two images of the largest size
            waiting.append(pool.submit(ask, served, two))
            until(lambda images=2 * number: served.recognizer._in_progress.total() >= images)
        waiting.append(pool.submit(predict, served, large))
        until(lambda: served.recognizer.pool._admitted["interactive"] == 1)
        engine.go.set()
        assert {one.result().status_code for one in waiting} == {200}


def test_one_image_of_a_model_with_a_large_input_may_be_nested_json() -> None:
    with serve_fake() as served:
        served.recognizer.model.classifier.recipe = replace(RECIPE, crop=512)
        data = np.zeros((1, 512, 512, 3), int).tolist()
        body = {"inputs": [{**PIXELS, "shape": [1, 512, 512, 3], "data": data}]}
        assert ask(served, body, "fake-tensor").status_code == 200
        two = {"inputs": [{**PIXELS, "shape": [2, 512, 512, 3], "data": data * 2}]}
        assert "as binary data" in ask(served, two, "fake-tensor").json()["error"]


def test_a_single_image_does_not_wait_for_the_memory_of_batches() -> None:
    with serve_fake(batch_max_bytes=1_000_000, max_bytes=400_000) as served:
        held = [upload(served, "/predict/batch", 999_999, "application/json") for _ in range(2)]
        large = given_as(data=[base64.b64encode(IMAGE + bytes(200_000)).decode()])
        assert ask(served, large).status_code == 200
        several = given_as(shape=[3], data=[base64.b64encode(IMAGE + bytes(200_000)).decode()] * 3)
        assert ask(served, several).status_code == 503
        for connection in held:
            connection.close()


def upload(served: Served, path: str, size: int, kind: str) -> socket.socket:
    """A body of which the server has all but one byte."""
    connection = socket.create_connection(("127.0.0.1", served.port), 30)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + bytes(size - 1))
    return connection


def test_floats_beyond_black_and_white_are_clipped() -> None:
    """As bicubic resizing of floats makes them, by at most a quarter of the range."""
    engine = Watched()
    pixels = crop_of(255).astype(np.float32) * 1.4 - 51  # -51 to 306
    values = normalised(pixels)[None]
    content, headers = json_then(values.tobytes(), "pixels", list(values.shape), "FP32")
    with serve_fake(engine) as served, served.client() as client:
        assert client.post("/v2/models/fake-tensor/infer", content=content, headers=headers).status_code == 200
    assert (engine.pixels[-1] == pixels.clip(0, 255).round()).all()


@pytest.mark.parametrize("whole", [True, False])
def test_floats_in_json_may_be_whole_numbers(fake: Served, whole: bool) -> None:
    data = [0 if whole else 0.0] * COUNT
    reply = ask(fake, {"inputs": [{**FLOATS, "data": data}]}, "fake-tensor")
    assert reply.status_code == 200
    grey = np.full((SIDE, SIDE, 3), np.array(RECIPE.mean) * 255).round().astype(np.uint8)
    assert reply.json()["outputs"][0]["data"] == pytest.approx(confidences(fake, encoded(grey)), abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 100.0])
def test_floats_that_are_not_normalised_are_refused(fake: Served, value: float) -> None:
    values = normalised(crop_of(200))[None]
    values[0, 1, 2, 3] = value
    content, headers = json_then(values.tobytes(), "pixels", list(values.shape), "FP32")
    with fake.client() as client:
        reply = client.post("/v2/models/fake-tensor/infer", content=content, headers=headers)
    assert reply.status_code == 400
    assert "not normalised with the model's mean and std" in reply.json()["error"]


def test_one_bad_image_fails_the_request_and_is_named(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException, match="Image 1: The image has 2 x 2 pixels") as caught:
        client.infer("fake", [tensor([IMAGE, TOO_SMALL, IMAGE])])
    assert caught.value.status() == "422"
    with pytest.raises(triton.InferenceServerException, match="Image 1: This is not a JPEG"):  # of both the first
        client.infer("fake", [tensor([IMAGE, b"no image", TOO_SMALL])])


def test_after_a_bad_image_no_other_is_begun_and_those_in_progress_are_audited(tmp_path: Path) -> None:
    engine = FakeEngine()
    settings = {"audit_url": "sqlite", "data_dir": tmp_path, "api_keys": "boss:open-sesame:admin"}
    images = [TOO_SMALL, *(image(number) for number in range(40))]
    body = given_as(shape=[41], data=[base64.b64encode(data).decode() for data in images])
    admin = {"X-API-Key": "open-sesame"}
    with serve_fake(engine, **settings) as served, ThreadPoolExecutor() as pool, served.client(headers=admin) as client:
        engine.go.clear()
        reply = pool.submit(ask, served, body, headers=admin)
        for _ in range(2):  # both workers have an image of those that follow
            assert engine.started.acquire(timeout=30)
        engine.go.set()
        assert reply.result().json() == {"error": "Image 0: The image has 2 x 2 pixels; at least 4 a side are needed."}
        statuses = [row["status"] for row in client.get("/audit").json()["rows"]]
    assert engine.calls == 3  # as many as two workers have begun or wait for, without the first
    assert sorted(statuses) == [200, 200, 200, 422]


def test_several_images_are_a_batch_and_one_is_not() -> None:
    """The queue is full: one image is refused, and several wait for their turn."""
    engine = FakeEngine()
    with busy(engine, queue=0) as (served, pool):
        assert ask(served, given_as()).status_code == 503
        several = pool.submit(ask, served, given_as(shape=[2], data=[BASE64, BASE64]))
        until(lambda: served.recognizer.pool.waiting > 0)
        engine.go.set()
        assert several.result().status_code == 200


def test_a_single_image_is_not_computed_for_a_client_that_left() -> None:
    engine = FakeEngine()
    with busy(engine, queue=1) as (served, _):
        body = json.dumps(given_as()).encode()
        with socket.create_connection(("127.0.0.1", served.port), 30) as connection:
            head = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(lambda: served.recognizer.pool.waiting == 1)
        until(lambda: answered(served, "/v2/models/{name}/infer", 499) == 1)
    assert engine.calls == 1


def test_a_server_that_fails_says_so_and_no_more() -> None:
    with serve_fake(raises=RuntimeError("secret")) as served:
        for count in (1, 2):
            reply = ask(served, given_as(shape=[count], data=[BASE64] * count))
            assert (reply.status_code, list(reply.json())) == (500, ["error"])
            assert "secret" not in reply.text


def test_a_tensor_and_an_image_of_the_same_bytes_have_answers_of_their_own() -> None:
    """Whichever comes first, and while the other is computed."""
    engine, pixels = FakeEngine(), crop_of(200)
    ppm = makers.encode(Image.fromarray(pixels), "PPM")
    with serve_fake(engine, cache_url="memory://") as served, served.client() as client, ThreadPoolExecutor() as pool:

        def infer() -> httpx.Response:
            return client.post("/v2/models/fake-tensor/infer", content=pixels.tobytes(), headers=RAW)

        engine.go.clear()
        tensor = pool.submit(infer)
        assert engine.started.acquire(timeout=30)
        assert predict(served, ppm).status_code == 415
        engine.go.set()
        assert tensor.result().status_code == 200
        assert predict(served, ppm).status_code == 415
        assert infer().headers["x-cache"] == "hit"
        sha256 = hashlib.sha256(ppm).hexdigest()
        assert client.get(f"/results/{sha256}").status_code == 404


def test_limits_keys_rates_and_the_audit_log_are_those_of_predict(tmp_path: Path) -> None:
    settings = {"api_keys": "a:click-clack,boss:open-sesame:admin", "audit_url": "sqlite", "rate_limit": "6/hour"}
    with serve_fake(**settings, max_bytes=20_000, data_dir=tmp_path) as served, served.client() as client:
        for path in ("health/ready", "models/fake/ready", "models/fake/versions/000000000000/ready"):
            assert client.get(f"/v2/{path}").status_code == 200
        for path in ("/v2", "/v2/models/fake", "/v2/models/fake/ready/", "/v2/models/fake/x/ready"):
            reply = client.get(path)
            assert (reply.status_code, list(reply.json())) == (401, ["error"])
        key = {"X-API-Key": "click-clack"}
        large = given_as(data=[base64.b64encode(bytes(20_001)).decode()])
        assert ask(served, large, headers=key).status_code == 413
        three = given_as(shape=[3], data=[base64.b64encode(data).decode() for data in SHADES[:3]])
        assert ask(served, three, headers=key).status_code == 200
        assert ask(served, three, headers=key).status_code == 429
        pixels = crop_of(200)
        reply = client.post("/v2/models/fake-tensor/infer", content=pixels.tobytes(), headers={**RAW, **key})
        assert reply.status_code == 413  # more than EYESPOT_MAX_BYTES, like any other image
        rows = client.get("/audit", headers={"X-API-Key": "open-sesame"}).json()["rows"]
    assert [(row["key"], row["format"], row["status"]) for row in rows] == [("a", "PNG", 200)] * 3
    assert len({row["sha256"] for row in rows}) == 3


def test_a_tensor_is_audited_as_the_ppm_image_of_its_pixels(tmp_path: Path) -> None:
    settings = {"audit_url": "sqlite", "data_dir": tmp_path, "api_keys": "boss:open-sesame:admin"}
    with serve_fake(**settings) as served, served.client(headers={"X-API-Key": "open-sesame"}) as client:
        client.post("/v2/models/fake-tensor/infer", content=crop_of(200).tobytes(), headers=RAW)
        (row,) = client.get("/audit").json()["rows"]
    ppm = makers.encode(Image.fromarray(crop_of(200)), "PPM")
    assert row["sha256"] == hashlib.sha256(ppm).hexdigest()
    assert (row["format"], row["width"], row["bytes"]) == ("PPM", RECIPE.crop, len(ppm))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([BASE64, "image", "pixels"]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)
SHAPES = st.sampled_from([[1], [1, 1], [2], PIXELS["shape"], FLOATS["shape"]]) | JSON
TENSOR_NAMES = st.sampled_from(["image", "pixels", "probabilities", "embedding"]) | JSON
PARAMETERS = st.dictionaries(st.sampled_from(["binary_data", "binary_data_size", "classification"]), JSON)
PARTS = {"name": TENSOR_NAMES, "shape": SHAPES, "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | JSON}
OPTIONAL = {"data": JSON | st.lists(JSON, max_size=3), "parameters": PARAMETERS | JSON}
TENSORS = st.lists(st.fixed_dictionaries(PARTS, optional=OPTIONAL) | JSON, max_size=2)
REQUESTS = st.fixed_dictionaries({"inputs": TENSORS}, optional={"id": JSON, "outputs": TENSORS, "parameters": JSON})


@given(REQUESTS, st.binary(max_size=20), st.booleans(), st.sampled_from(NAMES))
def test_no_body_is_an_internal_error(fake: Served, body: Any, more: bytes, cut: bool, name: str) -> None:
    head = json.dumps(body).encode()
    with fake.client() as client:
        content = head[:-1] if cut else head + more
        reply = client.post(f"/v2/models/{name}/infer", content=content, headers={HEADER: str(len(head) - cut)})
    assert reply.status_code in (200, 400, 413, 415, 422)
    assert reply.status_code == 200 or list(reply.json()) == ["error"]


def test_the_packaged_model_answers_as_it_does_to_predict(server: Served) -> None:
    name = "efficientnet-lite0"
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        output = triton.InferRequestedOutput("probabilities", class_count=3)
        embedding = triton.InferRequestedOutput("embedding")
        found = client.infer(name, [tensor([SAMPLE.read_bytes(), makers.jpeg()])], outputs=[output, embedding])
        (size,) = client.get_model_metadata(name)["outputs"][1]["shape"][1:]
    expected = predict(server, SAMPLE.read_bytes()).json()["predictions"]
    classes = [one.decode().split(":")[1:] for one in found.as_numpy("probabilities")[0]]
    assert classes == [[str(one["class_id"]), one["label"]] for one in expected]
    vectors = found.as_numpy("embedding")
    assert vectors.shape == (2, size)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.9
