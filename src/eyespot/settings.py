"""The settings: environment variables `EYESPOT_*`, each with its unit, range and description."""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eyespot import values
from eyespot.choices import ENGINES, FORMATS
from eyespot.errors import InvalidSetting

PREFIX = "EYESPOT_"
# Kubernetes sets these, EYESPOT_PORT=tcp://… included, in every pod if a Service is called `eyespot`.
_SERVICE_LINK = re.compile(r"EYESPOT_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
_MIB = 1024 * 1024

if TYPE_CHECKING:
    EngineName = str
    FormatName = str
else:  # a type checker cannot read the tables
    EngineName, FormatName = Literal["auto", *ENGINES], Literal[*FORMATS]


class Settings(BaseSettings):
    """All settings, in the order of the manual."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` is every IPv4 address.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")

    model: str = Field("auto", description="Model in the manifest; `auto` is the first whose weight file exists.")
    manifest: Path = Field(Path("weights/manifest.toml"), description="File that lists the models.")
    labels_dir: Path = Field(Path("labels"), description="Folder for label files that are not beside the manifest.")
    data_dir: Path = Field(
        Path("data"), description="Folder for everything that the server writes; created if missing."
    )

    engine: EngineName = Field(
        "auto",
        description="Library that runs the model; `auto` is openvino, or ncnn if measured to be faster; torch is the "
        "reference. torch, onnxruntime and torchscript are extras.",
    )
    precision: Literal["auto", "f32", "bf16", "int8"] = Field(
        "auto",
        description="Number format; `auto` is bf16 if measured to be faster, else f32. int8 needs `eyespot quantize`.",
    )
    min_says: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description="Minimum confidence to answer with a class or group; by default the model's own.",
    )
    workers: int | None = Field(
        None, ge=1, le=1024, description="Images processed at once; by default chosen from the available CPUs."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Engine threads per image; by default chosen from the available CPUs."
    )
    queue: int = Field(64, ge=0, le=100_000, description="Maximum number of waiting images.")
    deadline_seconds: float = Field(
        10, gt=0, le=3600, description="Maximum seconds that an image may wait for its result."
    )
    drain_seconds: float = Field(5, ge=0, le=3600, description="Seconds from SIGTERM until the port closes.")

    max_bytes: int = Field(5 * _MIB, ge=1024, le=1024 * _MIB, description="Maximum bytes of an encoded image.")
    max_pixels: int = Field(
        25_000_000, ge=1024, le=1_000_000_000, description="Maximum pixels of a JPEG; half of it for other formats."
    )
    formats: Annotated[tuple[FormatName, ...], NoDecode] = Field(
        tuple(FORMATS), description="Accepted image formats, separated by commas."
    )
    batch_max: int = Field(64, ge=1, le=10_000, description="Maximum images in a batch.")
    batch_max_bytes: int = Field(64 * _MIB, ge=1024, description="Maximum bytes of a batch's body.")

    cache_url: str = Field(
        "memory://",
        pattern=r"^(memory://(\?max_bytes=[0-9]{1,15})?|rediss?://.+|off)$",
        examples=["memory://", "memory://?max_bytes=N", "redis://HOST:6379/0", "off"],
        description="Cache for results: in this process (64 MiB by default), or in a Redis that replicas share.",
    )
    cache_scope: Literal["shared", "key"] = Field(
        "shared", description="Who shares cached results: all clients, or only those with the same API key."
    )
    audit_url: str = Field(
        "sqlite",
        pattern=r"^(sqlite(:///.+)?|postgresql(\+\w+)?://.+|off)$",
        examples=["sqlite", "sqlite:///FILE", "postgresql://USER:PASSWORD@HOST/DATABASE", "off"],
        description="Audit log; `sqlite` is a file in the data folder.",
    )
    audit_days: int = Field(30, ge=1, le=36_500, description="Days to keep audit records.")
    audit_required: bool = Field(False, description="Refuse requests that cannot be recorded.")
    audit_address: Literal["full", "truncated", "hashed", "none"] = Field(
        "full", description="How client addresses are recorded; `truncated` keeps /24 or /48."
    )
    uploads: Literal["off", "on"] = Field("off", description="Keep recognised images in the data folder.")
    uploads_days: int = Field(30, ge=1, le=36_500, description="Days to keep an image after it was last sent.")
    uploads_max_bytes: int = Field(
        1024 * _MIB, ge=0, description="Maximum bytes of kept images; the oldest are deleted first."
    )

    api_keys: SecretStr | None = Field(
        None, description="`name:secret[:admin],…`, or `@/file` with one key per line. Without keys the API is open."
    )
    rate_limit: str | None = Field(
        None, description="Maximum requests per key or address, such as `100/minute` or `10/second;1000/hour`."
    )
    trusted_proxies: str | None = Field(
        None, description="Proxies whose X-Forwarded-For is trusted: addresses and networks, separated by commas."
    )
    cors_origins: str | None = Field(
        None, description="Origins whose pages may call the API, separated by commas; `*` is every origin."
    )

    log_format: Literal["auto", "lines", "json"] = Field(
        "auto", description="`lines` for people, `json` for programs; `auto` is `lines` on a terminal, else `json`."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")

    @field_validator("formats", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip().lower() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        link = isinstance(value, str) and value.startswith(("tcp://", "udp://"))
        return cls.model_fields["port"].default if link else value


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


_KNOWN = {*map(variable, Settings.model_fields), "EYESPOT_URL", "EYESPOT_API_KEY"}  # the last two are the client's


def load(checks: Mapping[str, Callable[[str | None], object]] = {}) -> Settings:
    """The settings in this process's environment. `checks` are functions that raise for an invalid text, by field.

    Raises:
        InvalidSetting: names are unknown, or values are invalid; one line for each.
    """
    wrong = [_unknown(name) for name in sorted(os.environ) if name.upper().startswith(PREFIX) and not _is_known(name)]
    config = None
    try:
        config = Settings()
    except ValidationError as error:
        wrong += dict.fromkeys(_invalid(one["loc"], one["input"]) for one in error.errors())
    for name, check in checks.items():
        try:
            check(os.environ.get(variable(name)))
        except InvalidSetting as error:
            wrong.append(str(error))
    if wrong or not config:
        raise InvalidSetting("\n".join(wrong))
    return config


def _is_known(name: str) -> bool:
    return name.upper() in _KNOWN or bool(_SERVICE_LINK.fullmatch(name))


def _unknown(name: str) -> str:
    # Without the prefix, with which all names are near.
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in _KNOWN], 1)
    remedy = f"did you mean {PREFIX}{near[0]}?" if near else "`eyespot serve --help` lists all"
    return f"{name}: unknown setting; {remedy}"


def _invalid(path: tuple[int | str, ...], value: object) -> str:
    name = variable(str(path[0]))
    # A URL may hold a password.
    shown = "the value" if name.endswith("_URL") else values.shown(value)
    return values.complaint(name, shown, values.part(Settings.model_json_schema(), path))
