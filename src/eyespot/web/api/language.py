"""The language of an answer where the request names none: what Accept-Language prefers (RFC 9110, section 12.5.4)."""

from functools import lru_cache
from typing import get_args

from starlette.types import Scope

from eyespot.types import Lang
from eyespot.web.gate import header

LANGUAGES: tuple[Lang, ...] = get_args(Lang)
_MAX_TAGS = 30


def preferred(scope: Scope) -> Lang:
    """English, unless the header prefers Chinese, of any script or region: only Simplified Chinese exists."""
    return _preferred(header(scope, b"accept-language") or "")


@lru_cache(100)  # browsers of one place send the same few
def _preferred(text: str) -> Lang:
    weights: dict[str, float] = {}
    for part in text.split(",", _MAX_TAGS)[:_MAX_TAGS]:
        tag, _, parameter = part.partition(";")
        name = tag.strip().lower().partition("-")[0]
        weights[name] = max(weights.get(name, 0), _weight(parameter))
    names = list(weights)

    def rank(lang: Lang) -> tuple[float, int]:
        weight = weights.get(lang, weights.get("*", 0))
        # Of two with the same weight, the one named first.
        return weight, -names.index(lang) if weight and lang in names else -len(names)

    return max(LANGUAGES, key=rank)


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        weight = float(value) if name.strip().lower() == "q" else 1
    except ValueError:
        return 0
    return weight if 0 <= weight <= 1 else 0


def headers(lang: Lang, *vary: str) -> dict[str, str]:
    """What an answer tells people and caches about its language; it varies by the request headers `vary` too."""
    return {"Content-Language": lang, "Vary": ", ".join([*vary, "Accept-Language"])}
