"""Reads requests of the Open Inference Protocol, and renders responses: JSON, before tensors in binary.

The protocol is kserve/open-inference-protocol, `inference_rest.md`; `binary_tensor_data` and `classification` are
Triton's extensions of it.
"""

import re
from collections.abc import Sequence

from fastapi import Response
from pydantic import TypeAdapter, ValidationError

from eyespot.errors import BadJson, BadTensor
from eyespot.values import complaints, shown
from eyespot.web.api import json_body
from eyespot.web.api.inference_types import (
    InferenceRequest,
    InferenceResponse,
    Output,
    Parameters,
    RequestedOutput,
    Tensor,
    TensorInfo,
    Values,
)

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
LENGTH_BYTES = 4  # before each element of a BYTES tensor, little-endian

_MAX_TENSORS = 8  # inputs or outputs of a request
_MAX_ID = 1024  # characters

_REQUEST = TypeAdapter(InferenceRequest)
_SCHEMA = _REQUEST.json_schema()
_RESPONSE = TypeAdapter(InferenceResponse)


def read(raw: bytes, header: str | None, raw_input: TensorInfo, max_values: int) -> tuple[InferenceRequest, memoryview]:
    """The request, and the binary data after its JSON; `header` is the length of that JSON.

    A header of 0 means that the whole body is `raw_input`, for one image, and that the outputs shall be binary. Raises
    `BadJson` or `BadTensor`.
    """
    length = len(raw)
    if header is not None:
        header = header.strip()
        if not re.fullmatch("[0-9]{1,15}", header) or int(header) > length:
            raise BadTensor(
                f"{JSON_LENGTH_HEADER} must be the length of the JSON in bytes, at most the body's {length:,}."
            )
        length = int(header)
        if not length:
            return _raw_request(raw, raw_input)
    detail = f"The JSON has more than {max_values:,} values: send tensors as binary data."
    fields = json_body.parse(raw[:length], max_values, BadJson(detail, limit=max_values))
    if not isinstance(fields, dict):
        raise BadTensor("The JSON must be an object with a list `inputs`.")
    for name, most in {"inputs": _MAX_TENSORS, "outputs": _MAX_TENSORS, "id": _MAX_ID}.items():
        if isinstance(fields.get(name), list | str) and len(fields[name]) > most:
            raise BadTensor(f"`{name}` is too long: {len(fields[name]):,}; the limit is {most:,}.", limit=most)
    try:
        return _REQUEST.validate_python(fields), memoryview(raw)[length:]
    except ValidationError as error:
        raise BadTensor(f"{'; '.join(complaints(error, _SCHEMA))}.") from error


def _raw_request(raw: bytes, raw_input: TensorInfo) -> tuple[InferenceRequest, memoryview]:
    if raw_input.datatype == "BYTES":
        raw = _element(raw)
    tensor = Tensor(raw_input.name, raw_input.datatype, [1, *raw_input.shape[1:]], {"binary_data_size": len(raw)})
    return InferenceRequest([tensor], parameters={"binary_data_output": True}), memoryview(raw)


def requested_outputs(request: InferenceRequest, names: Sequence[str]) -> list[Output]:
    """The outputs that a request asks for, by default the first of `names`. Raises `BadTensor` for any other."""
    binary = _flag(request.parameters, "binary_data_output", default=False)
    found = []
    for one in request.outputs or [RequestedOutput(names[0])]:
        if one.name not in names:
            raise BadTensor(f"The model has no output {shown(one.name)}; it has {' and '.join(names)}.")
        classes = _count(one.parameters, "classification")
        if classes and one.name != names[0]:
            raise BadTensor(f"The parameter classification is for {names[0]}, not for {one.name}.")
        if "shared_memory_region" in (one.parameters or {}):
            raise BadTensor("Shared memory is not supported.")
        found.append(Output(one.name, _flag(one.parameters, "binary_data", binary), classes))
    return found


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise BadTensor(f"The parameter {name} must be true or false.")
    return value


def _count(parameters: Parameters, name: str) -> int | None:
    value = (parameters or {}).get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadTensor(f"The parameter {name} must be a whole number of at least 1.")
    return value


def respond(request_id: str | None, model: str, version: str, outputs: Sequence[tuple[Output, Values]]) -> Response:
    """The response to the request with that `id`, with its outputs in the order in which they were asked for."""
    tensors, binary = [], []
    for output, values in outputs:
        datatype, data = "BYTES" if values.dtype == object else "FP32", None
        if output.binary:
            binary.append(_pack(values) if values.dtype == object else values.astype("<f4").tobytes())
        else:
            data = values.ravel().tolist()
        size = {"binary_data_size": len(binary[-1])} if output.binary else None
        tensors.append(Tensor(output.name, datatype, list(values.shape), size, data))
    head = _RESPONSE.dump_json(InferenceResponse(model, version, tensors, request_id), exclude_none=True)
    if not binary:
        return Response(head, media_type="application/json")
    return Response(b"".join((head, *binary)), 200, {JSON_LENGTH_HEADER: str(len(head))}, "application/octet-stream")


def _pack(values: Values) -> bytes:
    return b"".join(_element(str(text).encode()) for text in values.ravel())


def _element(data: bytes) -> bytes:
    """One element of a BYTES tensor, after its length."""
    return len(data).to_bytes(LENGTH_BYTES, "little") + data
