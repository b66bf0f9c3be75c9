"""The API as a Ray Serve application: `serve run --app-dir deploy/ray app:app replicas=2 cpus=4`."""

from fastapi import FastAPI
from ray import serve

from eyespot import telemetry
from eyespot.cli.terminal import load_settings
from eyespot.web.app import CHECKS, create_app


def app(args: dict[str, str]) -> serve.Application:
    """`replicas` with `cpus` processors each. The settings of this process are those of every replica."""
    cpus = int(args.get("cpus", 1))
    config = load_settings(checks=CHECKS).model_copy(update={"workers": cpus, "threads": 1})

    def build() -> FastAPI:
        telemetry.configure_logging(config.log_format, config.log_level)
        return create_app(config)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name="eyespot",
        num_replicas=int(args.get("replicas", 1)),
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=cpus + config.queue + 100,  # more than a replica admits, so that it refuses, not Ray
    )
    return deployment.bind()
