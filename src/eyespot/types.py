"""The nouns: each dataclass is the domain object, its JSON, its OpenAPI schema and what the client returns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from pydantic import Field
from pydantic_core import to_jsonable_python

from eyespot.values import SHA256

TYPE_URI = "urn:eyespot:problem:"  # RFC 9457 `type` is this and the code

Lang: TypeAlias = Literal["en", "zh"]
"""English or Simplified Chinese."""

RequestId = Annotated[str, Field(description="As in the header X-Request-ID.")]
Pixels = Annotated[int, Field(ge=1, description="Pixels of the upright image.")]
Confidence = Annotated[float, Field(ge=0, le=1)]
Predictions = Annotated[list["Prediction"], Field(description="Highest confidence first.")]
Groups = Annotated[
    list["GroupScore"],
    Field(
        description="The likeliest top group, and on from it each subgroup that holds more than half of its parent's "
        "confidence; most specific first."
    ),
]
Cached = Annotated[bool, Field(description="Whether the answer was remembered rather than computed.")]


class Reply:
    """What a client returns."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The reply as JSON-compatible dictionaries and lists."""
        return to_jsonable_python(self)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image becomes the input of a model; the numbers belong to its weights.

    `resize` (of the short side) and `crop` are pixels; `mean` and `std` are per RGB channel, of values in [0, 1].
    """

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Label(Reply):
    """One class of a model."""

    class_id: Annotated[int, Field(ge=0, description="Index of the class in the model's output.")]
    wnid: Annotated[str, Field(description="WordNet 3.0 id of the class.")]
    label: Annotated[str, Field(description="Name of the class, in the language of the answer; unique.")]


@dataclass(frozen=True, slots=True)
class Prediction(Label):
    """One class, and its confidence."""

    confidence: Annotated[
        Confidence, Field(description="Softmax of the logits over the temperature; all classes sum to 1.")
    ]


@dataclass(frozen=True, slots=True)
class Group(Reply):
    """Several classes, such as all dogs. Groups form a tree, and each class is in one of them."""

    id: Annotated[str, Field(description="Path in the tree, such as animal/dog.")]
    label: Annotated[str, Field(description="Name of the group; unique.")]


@dataclass(frozen=True, slots=True)
class GroupScore(Group):
    """A group, and its confidence."""

    confidence: Annotated[Confidence, Field(description="Sum over all classes of the group.")]


@dataclass(frozen=True, slots=True)
class LabelEntry(Label):
    """A class with its names, synonyms, definition and groups."""

    en: Annotated[str, Field(description="English name.")]
    zh: Annotated[str | None, Field(description="Chinese name; null if the label file has none.")]
    synonyms: Annotated[list[str], Field(description="Other English names, including the scientific one.")]
    gloss: Annotated[str | None, Field(description="One-line definition, in English.")]
    groups: Annotated[list[Group], Field(description="The groups it belongs to, most specific first.")]
    other: Annotated[bool, Field(description="Whether it is none of the other classes.")] = False


@dataclass(frozen=True, slots=True)
class Says(Reply):
    """The most specific thing that the confidences justify: a class, a group, or that the model is unsure."""

    kind: Annotated[Literal["class", "group", "unsure"], Field(description="What the label names.")]
    id: Annotated[
        str | None,
        Field(description="The class's wnid, or its class_id if it has none; the group's id; null if unsure."),
    ]
    label: Annotated[str, Field(description="Text to display, such as dog or unsure, in the language of the answer.")]
    confidence: Annotated[
        Confidence, Field(description="Of that class or group; if unsure, the highest of any but `other`.")
    ]


class Answer(TypedDict):
    """What the confidences for one image say; part of several replies."""

    says: Says
    groups: list[GroupScore]
    predictions: list[Prediction]


@dataclass(frozen=True, slots=True)
class ImageInfo(Reply):
    """The image that was recognised."""

    sha256: Annotated[str, Field(pattern=SHA256, description="Of the encoded bytes, as they were sent.")]
    format: Annotated[str, Field(description="Detected from the first bytes, such as JPEG.")]
    width: Pixels
    height: Pixels


@dataclass(frozen=True, slots=True)
class ModelInfo(Reply):
    """The model that answered."""

    name: Annotated[str, Field(description="Entry of the manifest.")]
    digest: Annotated[str, Field(pattern=SHA256, description="sha256 of the weight file.")]
    engine: Annotated[str, Field(description="Library that runs the model, such as openvino.")]
    precision: Annotated[str, Field(description="Number format of the computation: f32, bf16 or int8.")]


@dataclass(frozen=True, slots=True)
class Recognition(Reply):
    """What is in one image: the reply of `/predict`."""

    says: Says
    groups: Groups
    predictions: Predictions
    image: ImageInfo
    model: ModelInfo
    cached: Cached
    request_id: RequestId

    def __repr__(self) -> str:
        """Such as `Recognition(cat 98.0%: tabby 48.9%, tiger cat 25.3%; 480 x 320 JPEG)`, with five classes at most."""
        classes = [f"{each.label} {each.confidence:.1%}" for each in self.predictions[:5]] or ["no class"]
        more = ", …" if len(self.predictions) > 5 else ""
        said = f"{self.says.label} {self.says.confidence:.1%}"
        size = f"{self.image.width} x {self.image.height} {self.image.format}"
        return f"Recognition({said}: {', '.join(classes)}{more}; {size})"


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the image that the model sees, in pixels of the upright image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Explanation(Reply):
    """Where the model sees a class: the reply of `/explain` in JSON."""

    prediction: Prediction
    map: Annotated[
        list[list[float]],
        Field(
            description="Each cell's contribution to the class's logit, in rows from the top: the mean plus the "
            "class's bias is the logit."
        ),
    ]
    crop: Annotated[Crop, Field(description="What the map covers.")]
    image: ImageInfo
    model: ModelInfo
    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that readiness depends on."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness(Reply):
    """The reply of `/readyz`; the checks only with `?verbose`."""

    ready: bool
    checks: list[Check] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was refused (RFC 9457, `application/problem+json`)."""

    type: Annotated[str, Field(description="urn:eyespot:problem: and the code.")]
    title: Annotated[str, Field(description="The kind of problem, in a few words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[str, Field(description="What happened, and what to do about it.")]
    code: Annotated[str, Field(description="The kind of problem, for programs.")]
    request_id: RequestId
    limit: Annotated[int | float | None, Field(description="The limit that was broken.")] = None
    value: Annotated[int | float | str | None, Field(description="The value that broke it.")] = None
    checks: Annotated[list[Check] | None, Field(description="Of /readyz?verbose.")] = None


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One image's result in a batch, or its problem."""

    index: Annotated[int, Field(ge=0, description="Place of the image in the batch.")]
    filename: Annotated[str | None, Field(description="As the form has it.")] = None
    says: Says | None = None
    groups: Groups | None = None
    predictions: Predictions | None = None
    image: ImageInfo | None = None
    cached: Cached | None = None
    problem: Annotated[Problem | None, Field(description="In the place of the others.")] = None
    model: Annotated[ModelInfo | None, Field(description="In a line of NDJSON, which stands alone.")] = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What is in many images: the reply of `/predict/batch`."""

    results: Annotated[list[BatchItem], Field(description="One for each image, in the order of the images.")]
    model: ModelInfo
    request_id: RequestId


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One recognition that was answered, or refused after its image had been read."""

    time: Annotated[datetime, Field(description="UTC, when it was decided.")]
    request_id: RequestId
    address: Annotated[str | None, Field(description="Of the client, as EYESPOT_AUDIT_ADDRESS has it.")]
    key: Annotated[str | None, Field(description="Name of the API key.")]
    sha256: Annotated[str, Field(description="Of the encoded bytes.")]
    bytes: Annotated[int, Field(description="Size of the encoded image.")]
    format: Annotated[str | None, Field(description="Such as JPEG; null if the image was refused.")]
    width: Pixels | None
    height: Pixels | None
    model_digest: Annotated[str, Field(description="sha256 of the weight file.")]
    engine: str
    precision: str
    top5: Annotated[list[Prediction], Field(description="The five likeliest classes, whatever was asked for.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    code: Annotated[str | None, Field(description="The code of the problem; null when there was none.")]
    cache: Annotated[str, Field(description="Where the answer came from: hit, miss or joined.")]
    steps: Annotated[dict[str, float], Field(description="Milliseconds of each step until then.")]
    id: Annotated[int, Field(description="Grows with every row.")] = 0


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some rows of the audit log: the reply of `/audit`."""

    rows: Annotated[list[AuditRow], Field(description="Newest first.")]
    cursor: Annotated[int | None, Field(description="To be sent for the next page; null when there is none.")]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Published accuracy in percent, and on what."""

    top1: float
    on: str
    top5: float | None = None


@dataclass(frozen=True, slots=True)
class Quantization:
    """How an int8 model compares with its float32 original."""

    preset: Annotated[str, Field(description="Calibration preset: the best of several.")]
    calibrated_on: Annotated[int, Field(description="Number of images that calibrated it.")]
    measured_on: Annotated[int, Field(description="Number of other images, on which the rest is measured.")]
    agreement: Annotated[float, Field(ge=0, le=1, description="Share of them with the same top-1.")]
    mean_difference: Annotated[float, Field(description="Mean difference of its confidence.")]
    worst_difference: Annotated[float, Field(description="Largest difference of its confidence.")]
    images_per_second: Annotated[float, Field(description="In int8, one after another, each on all cores.")]
    images_per_second_before: Annotated[float, Field(description="The same in float32.")]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into confidences, and confidences into what an answer says."""

    temperature: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="The logits are divided by it (Guo et al., ICML 2017).")
    ] = 1.0
    min_says: Annotated[
        float, Field(ge=0.5, le=1, description="Minimum confidence for `says` to be a class or group.")
    ] = 0.75
    images: Annotated[int, Field(ge=0, description="Number of labelled images it was fitted on; 0 if it was not.")] = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a request."""

    max_bytes: Annotated[int, Field(description="Maximum bytes of an encoded image.")]
    max_pixels: Annotated[int, Field(description="Maximum width x height of a JPEG; of other formats half of it.")]
    formats: Annotated[list[str], Field(description="Accepted image formats.")]
    max_top_k: Annotated[int, Field(description="Largest top_k.")]


@dataclass(frozen=True, slots=True)
class ModelCard(ModelInfo):
    """The model and what it accepts: the reply of `/model`."""

    architecture: str
    input_size: Annotated[int, Field(description="Side of the square input, in pixels.")]
    classes: Annotated[int, Field(description="Number of classes.")]
    accuracy: Accuracy | None
    license: str
    stand_in: Annotated[bool, Field(description="Whether it stands in for a model whose weights are missing.")]
    limits: Limits
    recipe: Recipe
    calibration: Calibration
    labels: Annotated[str, Field(description="Label file with its classes.")] = ""
    quantization: Annotated[Quantization | None, Field(description="Of an int8 model.")] = None
    explains: Annotated[
        bool, Field(description="Whether /explain works: the final layer directly follows the pooling.")
    ] = True
