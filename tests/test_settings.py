import pytest

from eyespot import settings
from eyespot.errors import InvalidSetting
from eyespot.settings import Settings, variable

DESIGN = {
    *("HOST", "PORT", "MODEL", "MANIFEST", "LABELS_DIR", "DATA_DIR", "ENGINE", "PRECISION", "MIN_SAYS"),
    *(
        "WORKERS",
        "THREADS",
        "QUEUE",
        "DEADLINE_SECONDS",
        "DRAIN_SECONDS",
        "MAX_BYTES",
        "MAX_PIXELS",
        "FORMATS",
        "BATCH_MAX",
    ),
    *("BATCH_MAX_BYTES", "CACHE_URL", "AUDIT_URL", "AUDIT_DAYS", "AUDIT_REQUIRED", "UPLOADS", "UPLOADS_DAYS"),
    *(
        "CACHE_SCOPE",
        "AUDIT_ADDRESS",
        "UPLOADS_MAX_BYTES",
        "API_KEYS",
        "RATE_LIMIT",
        "TRUSTED_PROXIES",
        "CORS_ORIGINS",
        "LOG_FORMAT",
        "LOG_LEVEL",
    ),
}


KUBERNETES = {
    "EYESPOT_SERVICE_HOST": "10.0.0.1",
    "EYESPOT_SERVICE_PORT": "80",
    "EYESPOT_SERVICE_PORT_HTTP": "80",
    "EYESPOT_PORT": "tcp://10.0.0.1:80",
    "EYESPOT_PORT_80_TCP": "tcp://10.0.0.1:80",
    "EYESPOT_PORT_80_TCP_PROTO": "tcp",
    "EYESPOT_PORT_80_TCP_PORT": "80",
    "EYESPOT_PORT_80_TCP_ADDR": "10.0.0.1",
}


def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    assert settings.load().port == 8000


def test_every_setting_of_the_design_is_known() -> None:
    assert {variable(name) for name in Settings.model_fields} == {f"EYESPOT_{name}" for name in DESIGN}


def test_every_setting_has_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_defaults() -> None:
    config = settings.load()
    assert (config.host, config.port, config.model) == ("127.0.0.1", 8000, "auto")
    assert (config.max_bytes, config.max_pixels, config.queue) == (5 * 1024 * 1024, 25_000_000, 64)
    assert (config.deadline_seconds, config.drain_seconds) == (10, 5)
    assert config.formats == ("jpeg", "png", "webp")
    assert (config.batch_max, config.batch_max_bytes) == (64, 64 * 1024 * 1024)


CACHES = "memory://, memory://?max_bytes=N, redis://HOST:6379/0 or off"
AUDITS = "sqlite, sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or off"
WRONG = [
    ("EYESPOT_PROT", "1", "unknown setting; did you mean EYESPOT_PORT?"),
    ("EYESPOT_MAX_BYTE", "1", "unknown setting; did you mean EYESPOT_MAX_BYTES?"),
    ("eyespot_quue", "1", "unknown setting; did you mean EYESPOT_QUEUE?"),
    ("EYESPOT_PONY", "1", "unknown setting; `eyespot serve --help` lists all"),
    ("EYESPOT_PORT", "99999", "'99999' is not a whole number from 0 to 65535"),
    ("EYESPOT_PORT", "http", "'http' is not a whole number from 0 to 65535"),
    ("EYESPOT_QUEUE", "-1", "'-1' is not a whole number from 0 to 100000"),
    ("EYESPOT_WORKERS", "1.5", "'1.5' is not a whole number from 1 to 1024"),
    ("EYESPOT_WORKERS", "9" * 5000, f"'{'9' * 40}…' is not a whole number from 1 to 1024"),
    ("EYESPOT_MAX_BYTES", "5MB", "'5MB' is not a whole number from 1024 to 1073741824"),
    ("EYESPOT_BATCH_MAX_BYTES", "0", "'0' is not a whole number of at least 1024"),
    ("EYESPOT_MIN_SAYS", "0.49", "'0.49' is not a number from 0.5 to 1"),
    ("EYESPOT_MIN_SAYS", "nan", "'nan' is not a number from 0.5 to 1"),
    ("EYESPOT_MIN_SAYS", "90%", "'90%' is not a number from 0.5 to 1"),
    ("EYESPOT_DEADLINE_SECONDS", "nan", "'nan' is not a number above 0 and up to 3600"),
    ("EYESPOT_AUDIT_REQUIRED", "maybe", "'maybe' is not true or false"),
    ("EYESPOT_FORMATS", "jpeg,gif", "'gif' is not one of jpeg, png, webp"),
    ("EYESPOT_FORMATS", ",", "'' is not one of jpeg, png, webp"),
    ("EYESPOT_ENGINE", "tensorrt", "'tensorrt' is not one of auto, openvino, ncnn, torch, onnxruntime, torchscript"),
    ("EYESPOT_LOG_LEVEL", "loud\n", "'loud\\n' is not one of debug, info, warning, error"),
    ("EYESPOT_CACHE_URL", "ftp://me:hunter2@host", f"the value must look like {CACHES}"),
    ("EYESPOT_CACHE_URL", "memory://?bytes=1", f"the value must look like {CACHES}"),
    ("EYESPOT_CACHE_URL", "memory://?max_bytes=1k", f"the value must look like {CACHES}"),
    ("EYESPOT_CACHE_URL", "memory://x", f"the value must look like {CACHES}"),
    ("EYESPOT_AUDIT_URL", "postgres://me:hunter2@host/db", f"the value must look like {AUDITS}"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_a_wrong_name_or_value_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as caught:
        settings.load()
    assert str(caught.value) == f"{name}: {told}"


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EYESPOT_PORT": "x", "EYESPOT_ENGINE": "x", "EYESPOT_PONY": "1", "EYESPOT_PROT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as caught:
        settings.load()
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["EYESPOT_PONY", "EYESPOT_PROT", "EYESPOT_PORT", "EYESPOT_ENGINE"]


@pytest.mark.parametrize("name", ["EYESPOT_URL", "EYESPOT_API_KEY"])
def test_the_names_of_the_client_are_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://localhost:8000")
    settings.load()


def test_a_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_API_KEYS", "me:hunter2")
    assert "hunter2" not in repr(settings.load())


def test_an_empty_value_is_one_that_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_WORKERS", "")
    monkeypatch.setenv("EYESPOT_FORMATS", "")
    assert settings.load() == Settings()


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_FORMATS", "PNG, jpeg")
    assert settings.load().formats == ("png", "jpeg")
