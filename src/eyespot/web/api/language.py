"""The language of an answer where the request names none: what Accept-Language prefers (RFC 9110, section 12.5.4)."""

from typing import get_args

from starlette.types import Scope

from eyespot.types import Lang
from eyespot.web.gate import header

LANGUAGES: tuple[Lang, ...] = get_args(Lang)


def preferred(scope: Scope) -> Lang:
    """English, unless the header prefers Chinese; of any script or region, since there is one Chinese."""
    weights: dict[Lang, float] = {}
    for part in (header(scope, b"accept-language") or "").split(","):
        tag, _, parameter = part.partition(";")
        name = tag.strip()[:3].lower().removesuffix("-")
        for lang in LANGUAGES:
            if name == lang:
                weights.setdefault(lang, _weight(parameter))
    return max(LANGUAGES, key=lambda lang: weights.get(lang, 0))


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1
    except ValueError:
        return 0


def headers(lang: Lang) -> dict[str, str]:
    """What an answer says of its language, to people and to caches."""
    return {"Content-Language": lang, "Vary": "Accept-Language"}
