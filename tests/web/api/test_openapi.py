"""`/openapi.json` is valid, and says what the server does."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from eyespot.errors import REFUSALS
from eyespot.settings import Settings
from eyespot.types import Batch, LabelEntry, ModelCard, Recognition
from eyespot.vision.labels import load_labels
from eyespot.web.api.parameters import SCHEMA
from eyespot.web.app import create_app
from tests.serving import ROOT, Served
from tests.web.api.test_predict import BASE64 as IMAGE
from tests.web.gate.test_problems import BAD


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(json.dumps(create_app(Settings()).openapi()))


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation by its method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_it_names_the_routes_as_generated_clients_should(document: dict[str, Any]) -> None:
    assert {where: operation["operationId"] for where, operation in operations(document).items()} == {
        "POST /predict": "predict",
        "POST /explain": "explain",
        "POST /predict/batch": "predictBatch",
        "GET /results/{sha256}": "getResult",
        "GET /labels": "listLabels",
        "GET /model": "getModel",
        "GET /livez": "getLiveness",
        "GET /readyz": "getReadiness",
        "GET /metrics": "getMetrics",
        "GET /audit": "listAuditRows",
        "GET /uploads/{sha256}": "getUpload",
        "DELETE /uploads/{sha256}": "deleteUpload",
        "POST /admin/model": "switchModel",
        "GET /v2": "getServer",
        "GET /v2/health/live": "getServerLive",
        "GET /v2/health/ready": "getServerReady",
        "GET /v2/models/{name}": "getModelMetadata",
        "GET /v2/models/{name}/ready": "getModelReady",
        "POST /v2/models/{name}/infer": "infer",
    }


KEY = [{"bearer": []}, {"header": []}]


@pytest.mark.parametrize(("keys", "recognition"), [(None, []), ("camera:click-clack", KEY)])
def test_a_key_is_asked_for_where_it_is_needed(keys: str | None, recognition: list[dict[str, Any]]) -> None:
    document = create_app(Settings(api_keys=keys)).openapi()
    assert "security" not in document
    expected = {"recognition": recognition, "inference": recognition, "operation": [], "administration": KEY}
    for operation in operations(document).values():
        assert operation["security"] == expected[operation["tags"][0]]


def test_the_largest_top_k_is_that_of_the_model(fake: Served, document: dict[str, Any]) -> None:
    with fake.client() as client:
        served = client.get("/openapi.json").json()
    for each, largest in ((served, 10), (document, 1000)):  # an app that does not run yet has no model
        predict = each["paths"]["/predict"]["post"]
        assert predict["parameters"][0]["schema"]["maximum"] == largest
        in_json = predict["requestBody"]["content"]["application/json"]["schema"]["properties"]["top_k"]
        assert in_json["anyOf"][0]["maximum"] == largest


def test_put_is_told_of(document: dict[str, Any]) -> None:
    assert "`PUT`" in document["paths"]["/predict"]["post"]["description"]


def test_it_describes_the_three_bodies_and_the_parameters(document: dict[str, Any]) -> None:
    predict = document["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
        *("image/jpeg", "image/png", "image/webp"),
        "application/octet-stream",
    }
    assert [(parameter["name"], parameter["in"]) for parameter in predict["parameters"]] == [
        ("top_k", "query"),
        ("min_confidence", "query"),
        ("lang", "query"),
    ]
    for path in ("/predict", "/predict/batch"):  # where they are tried out, each is asked for once
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert list(content["multipart/form-data"]["schema"]["properties"]) == ["file"]
        assert not set(content["application/json"]["example"]) & set(SCHEMA)


@pytest.mark.parametrize("name", SCHEMA)
@pytest.mark.parametrize(("path", "images"), [("/predict", {"image": IMAGE}), ("/predict/batch", {"images": [IMAGE]})])
def test_json_means_what_its_schema_says(fake: Served, path: str, images: dict[str, object], name: str) -> None:
    with fake.client() as client:
        document = client.get("/openapi.json").json()
        content = document["paths"][path]["post"]["requestBody"]["content"]
        schema = Draft202012Validator(content["application/json"]["schema"])
        for value in (None, 0, 1, 2, 3.0, 0.5, -1, True, "en", "zh", "xx", [], {}):
            body = {**images, name: value}
            status = client.post(path, json=body).status_code
            assert status == (200 if schema.is_valid(body) else 422), value
        null = client.post(f"{path}?top_k=5", json={**images, name: None}).json()
        assert len(null.get("results", [null])[0]["predictions"]) == 5  # of the query, which null is no answer to


def test_it_describes_every_problem_that_predict_answers(document: dict[str, Any]) -> None:
    described = {
        (int(status), code)
        for status, response in document["paths"]["/predict"]["post"]["responses"].items()
        for code in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    assert {(status, code) for _, status, code in BAD.values()} <= described
    assert {(REFUSALS[code].status, code) for _, code in described} == described
    assert {(503, "overloaded"), (504, "deadline-exceeded"), (500, "internal"), (422, "invalid-parameter")} <= described


def test_its_examples_fit_its_schemas(document: dict[str, Any]) -> None:
    example = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    TypeAdapter(Recognition).validate_python(example)
    batch = document["paths"]["/predict/batch"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    TypeAdapter(Batch).validate_python(batch)
    assert batch["results"][0]["says"] == example["says"]
    assert "HTTPValidationError" not in json.dumps(document)


def test_its_model_is_the_packaged_one(document: dict[str, Any], server: Served) -> None:
    card = TypeAdapter(ModelCard)
    with server.client() as client:
        served = card.validate_json(client.get("/model").content)
    for operation in ("GET /model", "POST /admin/model"):
        content = operations(document)[operation]["responses"]["200"]["content"]["application/json"]
        assert card.validate_python(content["example"]) == served  # FastAPI leaves out nulls


def test_its_dictionary_is_that_of_the_labels(document: dict[str, Any]) -> None:
    content = document["paths"]["/labels"]["get"]["responses"]["200"]["content"]["application/json"]
    example = TypeAdapter(list[LabelEntry]).validate_python(content["example"])
    assert example == load_labels("imagenet1k", [ROOT / "labels"]).find("tabby")
    assert content["schema"]["items"] == {"$ref": "#/components/schemas/LabelEntry"}
