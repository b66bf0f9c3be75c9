#!/usr/bin/env bash
# Builds the image and runs it for real, with no network, on a Debian machine without Docker.
#
#   deploy/rehearse.sh                       all of it, with the packaged network; needs no weights
#   deploy/rehearse.sh build FOLDER ARG…     only build the image from FOLDER, with more arguments for buildah
#   deploy/rehearse.sh run IMAGE             only run an image that was built, and ask it everything
#   deploy/rehearse.sh own IMAGE             only serve a model of one's own with it, trained by .venv/bin/eyespot
#   deploy/rehearse.sh clean                 remove what WORK=FOLDER kept
#
# Root is needed, and: apt-get install --no-install-recommends \
#   debootstrap buildah podman runc podman-compose netavark aardvark-dns iptables curl
# WORK=FOLDER keeps what was made there (about 20 GB) for the next run; without it, it is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
    open_workshop
    case "${1:-all}" in
        all) build . --tag localhost/eyespot:packaged --build-arg MODEL=efficientnet-lite0
             run localhost/eyespot:packaged
             own_model localhost/eyespot:packaged
             compose localhost/eyespot:packaged ;;
        build) shift; build "$@" ;;
        run) run "$2" ;;
        own) own_model "$2" ;;
        clean) temporary=yes ;;
        *) sed -n '2,/^set/s/^# \?//p' "$0"; exit 2 ;;
    esac
    say "done"
}

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
quietly() { "$@" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "$*"; }; }

# Images, layers and settings of the container engine, apart from those of this machine.
open_workshop() {
    for tool in debootstrap buildah podman runc podman-compose curl; do
        command -v "$tool" >/dev/null || fail "$tool is not installed; the first lines of $0 say what is needed"
    done
    [ "$(id -u)" = 0 ] || fail "root is needed"
    [ -n "${WORK:-}" ] || { WORK=$(mktemp -d /var/tmp/eyespot-rehearsal.XXXXXX); temporary=yes; }
    mkdir -p "$WORK"
    trap close_workshop EXIT
    export CONTAINERS_CONF=$WORK/containers.conf CONTAINERS_STORAGE_CONF=$WORK/storage.conf
    # runc works with either version of cgroups; limits no higher than a machine without CAP_SYS_RESOURCE can give.
    cat >"$CONTAINERS_CONF" <<-END
	[containers]
	default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
	[engine]
	runtime = "runc"
	cgroup_manager = "cgroupfs"
	events_logger = "file"
	[network]
	network_backend = "netavark"
	network_config_dir = "$WORK/networks"
	END
    for driver in overlay vfs; do
        printf '[storage]\ndriver = "%s"\ngraphroot = "%s/images"\nrunroot = "%s/running"\n' \
            "$driver" "$WORK" "$WORK" >"$CONTAINERS_STORAGE_CONF"
        podman info >"$WORK/log" 2>&1 && break
    done
    export BUILDAH_ISOLATION=chroot TMPDIR=$WORK
}

close_workshop() {
    [ -z "${load:-}" ] || kill "$load" 2>/dev/null || true
    podman rm --force --all --volumes >/dev/null 2>&1 || true
    [ -n "${temporary:-}" ] || return 0
    buildah rm --all >/dev/null 2>&1 || true
    umount "$WORK/images/overlay" 2>/dev/null || true
    rm -rf "$WORK"
}

# The base image: Debian of the Dockerfile's release with its own Python, under a name of its own.
base() {
    podman image exists localhost/python:rehearsal && return
    local suite rootfs=$WORK/rootfs
    suite=$(sed -n 's/^ARG PYTHON=.*-slim-\([a-z]*\)@sha256:.*/\1/p' Dockerfile)
    say "a base image: Debian $suite"
    quietly debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        "$suite" "$rootfs" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    rm -rf "$rootfs"/{var/cache/apt,var/lib/apt/lists,usr/share/doc,usr/share/man,usr/share/locale}/*
    tar -C "$rootfs" -c . | quietly podman import - localhost/python:rehearsal
    rm -rf "$rootfs"
}

# The build's pip trusts and asks what this machine's does.
build() {
    local folder=$1 started mounts=()
    shift
    base
    started=$SECONDS
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
        [ ! -e $file ] || mounts+=(--volume "$file:$file:ro")
    done
    say "build $*"
    quietly buildah bud --pull-never --format docker "${mounts[@]}" \
        --build-arg PYTHON=localhost/python:rehearsal "$@" "$folder"
    tail -1 "$WORK/log"
    echo "built in $((SECONDS - started)) s"
}

# start NAME ARG… IMAGE: hardened as in docker-compose.yml, and with no network but loopback.
start() {
    local name=$1
    shift
    podman run --detach --name "$name" --network none --read-only --read-only-tmpfs=false --cap-drop all \
        --security-opt no-new-privileges "$@" >/dev/null 2>"$WORK/log" || { cat "$WORK/log" >&2; fail "start $name"; }
    pid=$(podman inspect "$name" --format '{{.State.Pid}}')
}
inside() { nsenter --target "$pid" --net "$@"; }
ask() { inside curl --silent --show-error --fail-with-body --max-time 30 "$@"; }
# patiently COMMAND…: until it succeeds, for half a minute.
patiently() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}
ready() {
    patiently podman healthcheck run "$1" || { podman logs "$1" >&2; fail "$1 did not become ready"; }
}
stop() {
    podman stop --time 30 "$1" >/dev/null 2>&1
    code=$(podman inspect "$1" --format '{{.State.ExitCode}}')
    [ "$code" = 0 ] || { podman logs "$1" >&2; fail "$1 ended with exit code $code"; }
}
seconds() { date +%s.%N; }
since() { awk "BEGIN { printf \"%.2f s\", $(seconds) - $1 }"; }

run() {
    local image=$1 bytes
    bytes=$(podman image inspect "$image" --format '{{.Size}}')
    say "run $image, $((bytes / 1000000)) MB"
    [ "$bytes" -lt 600000000 ] || fail "the image has 600 MB or more"

    local begun
    begun=$(seconds)
    start whole --memory 1g --cpus 1 "$image"
    ready whole
    echo "ready after $(since "$begun")"
    [ "$(inside grep -c : /proc/net/dev)" = 1 ] || fail "there is more network than loopback"
    grep -q '^Uid:.*10001' "/proc/$pid/status" || fail "runs as root"
    grep -q '^CapEff:.*0000000000000000' "/proc/$pid/status" || fail "has capabilities"
    podman logs whole >"$WORK/logs" 2>&1
    grep -q '"streams":1,"threads":1,"latency_threads":1,"cpus":1' "$WORK/logs" || fail "the quota of CPUs is not seen"
    grep -v '^{' "$WORK/logs" && fail "a log line that is no JSON"
    for path in /tmp/x /srv/eyespot/x /opt/eyespot/x; do
        podman exec whole touch $path 2>/dev/null && fail "$path can be written"
    done
    podman exec whole python -c 'import torch' 2>/dev/null && fail "torch is in the image"
    begun=$(seconds)
    inside python3 -IS deploy/healthcheck.py
    echo "health check: $(since "$begun")"

    ask --form file=@src/eyespot/sample.jpg localhost:8000/predict
    large_images
    many_large_images
    pages
    for path in /labels /model /metrics /openapi.json /livez; do
        ask --output /dev/null "localhost:8000$path" || fail "GET $path"
    done
    podman exec whole sh -c 'eyespot classify /opt/eyespot/lib/python3*/site-packages/eyespot/sample.jpg'
    echo "memory: $(awk '/^VmRSS/ {print int($2 / 1024)}' "/proc/$pid/status") MB"
    stop_under_load
    stop_at_once "$image"
    data_folders "$image"
}

# 3 MB, and the largest image that is allowed, in all three bodies, where nothing but /data can be written.
large_images() {
    podman exec whole python -c 'import sys, numpy, PIL.Image as image
noise = numpy.random.default_rng(0).integers(0, 256, (1720, 1720, 3), numpy.uint8)
image.fromarray(noise).save(sys.stdout.buffer, "JPEG", quality=93)' >"$WORK/large.jpg"
    cp "$WORK/large.jpg" "$WORK/largest.jpg"
    truncate --size $((5 * 1024 * 1024)) "$WORK/largest.jpg"
    for name in large largest; do
        local file=$WORK/$name.jpg begun
        begun=$(seconds)
        ask --output "$WORK/reply" --upload-file "$file" localhost:8000/predict || fail "$name as it is"
        echo "an image of $(stat --format %s "$file") bytes: $(since "$begun")"
        ask --output "$WORK/reply" --form "file=@$file" localhost:8000/predict || fail "$name as a form"
        { printf '{"image": "'; base64 --wrap 0 "$file"; printf '"}'; } >"$WORK/json"
        ask --output "$WORK/reply" --header 'Content-Type: application/json' --data-binary "@$WORK/json" \
            localhost:8000/predict || fail "$name in JSON"
    done
}

# More at once than there is memory for: each is answered or refused, and the server lives.
many_large_images() {
    inside python3 deploy/load.py flood 8000 "$WORK/largest.jpg" >"$WORK/load" || { cat "$WORK/load" >&2; fail "flood"; }
    echo "300 uploads of 5 MB at once, in 1 GB: $(tail -1 "$WORK/load")"
}

# What / and /docs load is here, and nothing of it is elsewhere.
pages() {
    local page reference references
    for page in / /docs; do
        ask --output "$WORK/page" "localhost:8000$page" || fail "GET $page"
        references=$(grep -oE '(src|href|action)="[^"#]+' "$WORK/page" | cut -d'"' -f2)
        [ -n "$references" ] || fail "$page loads nothing"
        for reference in $references; do
            case $reference in *//*) fail "$page points outside: $reference" ;; esac
            ask --output /dev/null "localhost:8000/${reference#/}" || fail "$page: $reference"
        done
        echo "$page loads $(wc -w <<<"$references") files, all from here"
    done
}

# SIGTERM to process 1 while six clients ask, each time on a new connection: each is answered or refused.
stop_under_load() {
    local begun
    inside python3 deploy/load.py knock 8000 >"$WORK/load" &
    load=$!
    sleep 1
    begun=$(seconds)
    stop whole
    echo "stopped after $(since "$begun")"
    wait "$load" || { cat "$WORK/load" >&2; fail "requests were lost"; }
    load=
    echo "while stopping: $(tail -1 "$WORK/load")"
}

# SIGTERM while it still starts: it does not wait to be killed.
stop_at_once() {
    local delay begun
    for delay in 0.3 0.6 1; do
        start early "$1"
        sleep "$delay"
        begun=$SECONDS
        podman stop --time 30 early >/dev/null 2>&1
        [ $((SECONDS - begun)) -lt 15 ] || fail "a stop $delay s after the start had to kill it"
        quietly podman rm early
    done
    echo "stopped at once while it started"
}

# /data may be a folder of the right owner or a tmpfs; one that cannot be written is told in one line.
data_folders() {
    local image=$1
    mkdir -p "$WORK"/data "$WORK"/data-of-root
    chown 10001:10001 "$WORK/data"
    chmod 755 "$WORK"/data*
    for where in "--volume=$WORK/data:/data" "--tmpfs=/data" "--tmpfs=/data --user=4242:4242"; do
        # shellcheck disable=SC2086 # two arguments in one
        start other --env EYESPOT_DRAIN_SECONDS=0 $where "$image"
        ready other
        ask --output /dev/null --upload-file src/eyespot/sample.jpg localhost:8000/predict || fail "with $where"
        stop other
        quietly podman rm other
        echo "started with ${where/$WORK/…}"
    done
    podman run --rm --network none --read-only --volume "$WORK/data-of-root:/data" "$image" >"$WORK/log" 2>&1 \
        && fail "a data folder of root was accepted"
    grep '"event":"start_failed","reason":"the data folder' "$WORK/log" || { cat "$WORK/log" >&2; fail "no clear word about the data folder"; }
}

# A model trained out here serves in there, as openapi.md says: "Train a model on your own classes".
own_model() {
    local image=$1 eyespot=.venv/bin/eyespot
    say "a model of one's own"
    [ -x $eyespot ] || { echo "left out: \`make install\` makes $eyespot"; return; }
    .venv/bin/python - "$WORK/things" <<-'END'
	import pathlib, sys, numpy, PIL.Image
	random = numpy.random.default_rng(0)
	for number in range(20):
	    for name, tint in {"red": (200, 0, 0), "blue": (0, 0, 200)}.items():
	        folder = pathlib.Path(sys.argv[1], name)
	        folder.mkdir(parents=True, exist_ok=True)
	        noise = random.integers(0, 50, (99, 99, 3), numpy.uint8) + numpy.uint8(tint)
	        PIL.Image.fromarray(noise).save(folder / f"{number}.png")
	END
    EYESPOT_DATA_DIR=$WORK/own EYESPOT_MODEL=efficientnet-lite0 quietly $eyespot finetune "$WORK/things" --name things
    chmod -R a+rX "$WORK"/own/{models,exports}
    start own --env EYESPOT_MODEL=things \
        --volume "$WORK/own/models:/data/models:ro" --volume "$WORK/own/exports:/data/exports:ro" "$image"
    ready own
    ask --upload-file "$WORK/things/blue/0.png" localhost:8000/predict?top_k=1 >"$WORK/reply" || fail "the own model"
    grep '"label": "blue"' "$WORK/reply" || { cat "$WORK/reply" >&2; fail "the own model does not know its class"; }
    stop own
}

# docker-compose.yml, with an image that is there already.
compose() {
    say "docker-compose.yml"
    podman tag "$1" localhost/eyespot:latest
    quietly podman-compose --project-name eyespot-rehearsal up --detach eyespot
    patiently curl --fail localhost:8000/readyz || { podman logs --latest >&2; fail "the service did not become ready"; }
    curl --silent --show-error --fail --upload-file src/eyespot/sample.jpg localhost:8000/predict \
        || { podman logs --latest >&2; fail "no answer through the published port"; }
    quietly podman-compose --project-name eyespot-rehearsal down --volumes
}

main "$@"
