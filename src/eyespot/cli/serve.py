"""`eyespot serve`."""

import os
import signal
import sys

import typer

from eyespot import telemetry
from eyespot.cli.terminal import load_settings
from eyespot.errors import InvalidSetting


def serve() -> None:
    """Serve the API and the page.

    It listens on `EYESPOT_HOST`:`EYESPOT_PORT` (127.0.0.1:8000) once the model has recognised a test image. Ctrl-C
    finishes the requests in progress and stops. SIGTERM does the same, but keeps listening for `EYESPOT_DRAIN_SECONDS`
    first. A second signal stops it at once. SIGHUP rereads the manifest and reloads the model.

    Example: `EYESPOT_PORT=9000 eyespot serve`
    """
    from eyespot.vision.export import SAMPLE
    from eyespot.web.app import CHECKS, create_app
    from eyespot.web.server import Server, bind

    config = load_settings(checks=CHECKS)
    if "EYESPOT_API_KEY" in os.environ and not config.api_keys:  # likely a typo, which would leave the API open
        raise InvalidSetting(
            "EYESPOT_API_KEY is a client's; the server takes EYESPOT_API_KEYS=name:secret, or unset it"
        )
    bound = bind(config.host, config.port)
    host, port = bound.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    url = f"http://{name}:{port}"
    fastapi = create_app(config)

    def ready() -> None:
        card = fastapi.state.recognizer.model.classifier.card
        telemetry.event("server_ready", url=url, model=card.name, engine=card.engine, precision=card.precision)
        if config.log_format != "json" and sys.stdout.isatty():
            key = "-H 'X-API-Key: SECRET' " if config.api_keys else ""
            typer.echo(f"\n  page  {url}/\n  docs  {url}/docs\n  try   curl {key}-F file=@{SAMPLE} {url}/predict\n")

    with bound:
        server = Server(fastapi, ready, config.drain_seconds, config.deadline_seconds)
        signal.signal(signal.SIGHUP, server.handle_hangup)
        server.run([bound])
    telemetry.event("server_stopped")
