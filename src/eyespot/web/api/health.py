"""`/livez`, `/readyz` and `/metrics`: for orchestrators, balancers and Prometheus."""

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter

from eyespot.errors import AuditUnavailable, Draining, Overloaded, Refusal
from eyespot.recognizer import Recognizer
from eyespot.types import Check, Readiness
from eyespot.web.gate import problems

_READINESS = TypeAdapter(Readiness)
_NO_STORE = {"Cache-Control": "no-store"}


async def livez() -> Response:
    """200 while the process answers at all. Depends on nothing else."""
    return Response(b'{"alive":true}', headers=_NO_STORE, media_type="application/json")


async def readyz(request: Request) -> Response:
    """200 when this server should get requests; 503 while it drains, is stuck, or lacks a required audit log."""
    recognizer: Recognizer = request.app.state.recognizer
    checks = _checks(recognizer) if "verbose" in request.query_params else None
    if refusal := unready(recognizer):
        answer = problems.response(request, refusal, checks, counted=False)
    else:
        readiness = _READINESS.dump_json(Readiness(True, checks), exclude_none=True)
        answer = Response(readiness, media_type="application/json")
    answer.headers.update(_NO_STORE)
    return answer


async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms in the Prometheus text format."""
    registry = request.app.state.metrics.registry
    return Response(generate_latest(registry), headers={**_NO_STORE, "Content-Type": CONTENT_TYPE_LATEST})


def unready(recognizer: Recognizer) -> Refusal | None:
    """Why every recognition would be refused now; None when the server is ready."""
    pool, audit = recognizer.pool, recognizer.audit
    if pool.draining:
        return Draining(retry_after=pool.retry_after())
    if pool.is_stuck():
        return Overloaded("No worker has finished an image within the deadline.", retry_after=pool.retry_after())
    if audit and audit.required and not audit.state()[0]:
        return AuditUnavailable(retry_after=1)
    return None


def _checks(recognizer: Recognizer) -> list[Check]:
    """What readiness depends on, and the stores. Reads numbers only, so busy workers do not delay it."""
    card, pool = recognizer.model.classifier.card, recognizer.pool
    stand_in = ", a stand-in: the weights of the first model are missing" if card.stand_in else ""
    stores = {"cache": recognizer.cache, "audit": recognizer.audit, "uploads": recognizer.uploads}
    return [
        Check("model", True, f"{card.name}, {card.engine} {card.precision}{stand_in}"),
        Check("golden image", True, "recognised when the model was opened"),
        Check("draining", not pool.draining, "stopping" if pool.draining else "no"),
        Check("pool", not pool.is_stuck(), f"{pool.waiting} waiting, {pool.capacity} places, {pool.workers} workers"),
        *(Check(name, *(store.state() if store else (True, "off"))) for name, store in stores.items()),
    ]
