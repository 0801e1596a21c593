#!/usr/bin/env bash
# Builds the image of this tree and asks it whether it is healthy: `make image-check`.
#
# With Docker where an engine answers. Else with buildah, in a chroot, on a base made by debootstrap that stands in for
# the official one: that needs root, the Debian packages buildah and debootstrap, and DEBIAN_MIRROR, the address of a
# mirror. Says which of the two it did.
set -eu
cd "$(dirname "$0")/.."
base=python:3.11-slim
port=${PORT:-8765}

healthy() { # waits for the server, at most 30 s
    for _ in $(seq 60); do
        if python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/healthz', timeout=2)" 2>/dev/null; then
            return 0
        fi
        sleep 0.5
    done
    return 1
}

first_pool() {
    python3 - "$port" <<'PYTHON'
import json
import sys
import urllib.request

body = json.dumps({"env_id": "LunarLander-v3", "num_envs": 4}).encode()
request = urllib.request.Request(
    f"http://127.0.0.1:{sys.argv[1]}/v1/pools", body, {"content-type": "application/json"}
)
print("first pool:", json.load(urllib.request.urlopen(request, timeout=60))["state"])
PYTHON
}

if docker info >/dev/null 2>&1; then
    docker build --quiet --tag vecserver-check .
    container=$(docker run --detach --rm --publish "127.0.0.1:$port:8000" vecserver-check)
    trap 'docker stop --time 5 "$container" >/dev/null' EXIT
    healthy
    first_pool
    echo "image-check: built and run with docker"
    exit 0
fi

if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    echo "image-check: not done: neither a Docker engine nor buildah and debootstrap are here" >&2
    exit 1
fi
bud() { buildah --storage-driver vfs "$@"; }
if ! bud images -q "$base" >/dev/null 2>&1; then
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        bookworm "$root" "${DEBIAN_MIRROR:?set DEBIAN_MIRROR to the address of a Debian mirror}"
    ln -sf python3 "$root/usr/bin/python"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    made=$(bud from scratch)
    bud add -q "$made" "$root" / >/dev/null
    bud config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$made"
    bud commit -q "$made" "$base" >/dev/null
    bud rm "$made" >/dev/null
    rm -rf "$root"
fi
bud bud --isolation chroot --network host --pull-never --tag vecserver-check .
container=$(bud from --pull-never vecserver-check)
# a session of its own: buildah does not hand on the signal that ends the server
setsid buildah --storage-driver vfs run --isolation chroot --network host --user 1000 "$container" -- \
    vecserver serve --host 0.0.0.0 --port "$port" --insecure &
server=$!
trap 'kill -TERM -- "-$server"; wait "$server" || true; bud rm "$container" >/dev/null' EXIT
healthy
first_pool
echo "image-check: built and run with buildah in a chroot, on a base made by debootstrap"
