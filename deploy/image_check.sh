#!/usr/bin/env bash
# Builds the image of this tree, starts it as it is, and asks it what people ask: `make image-check`. A pool is stepped, an
# OpenEnv client's episode begun, the page, the health check's address and the metrics are looked at.
#
# With Docker where an engine answers. Else with buildah, in a chroot, on a base made by debootstrap that stands in for
# the official one: that needs root, the Debian packages buildah and debootstrap, and DEBIAN_MIRROR, the address of a
# mirror. Says which of the two it did.
set -eu
cd "$(dirname "$0")/.."
base=python:3.11-slim
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

VECSERVER_TOKEN=$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')
export VECSERVER_TOKEN

# try PORT: waits until the server is healthy, at most 30 s; then asks it all that is to work
try() {
    python3 - "$1" <<'PYTHON'
import json
import os
import sys
import time
import urllib.error
import urllib.request

url = f"http://127.0.0.1:{sys.argv[1]}"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.addheaders = [("Authorization", f"Bearer {os.environ['VECSERVER_TOKEN']}")]
ask = opener.open


def post(path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(ask(request, timeout=60))


for _ in range(60):
    try:
        ask(f"{url}/health", timeout=2)
        break
    except OSError:
        time.sleep(0.5)
else:
    sys.exit("image-check: the server is not healthy after 30 s")
pool = post("/v1/pools", {"env_id": "LunarLander-v3", "num_envs": 4})
assert pool["state"] == "ready", pool
name = pool["pool"]
post(f"/v1/pools/{name}/reset", {"seed": 1})
batch = post(f"/v1/pools/{name}/step", {"actions": [0, 1, 2, 3]})
assert len(batch["rewards"]) == 4, batch
stats = json.load(ask(f"{url}/v1/pools/{name}/stats", timeout=10))
assert stats["batches"] == 1, stats
scraped = ask(f"{url}/metrics", timeout=10).read().decode()
assert f'vecserver_pool_batches_total{{env_id="LunarLander-v3",pool="{name}"}} 1.0' in scraped, scraped
print("image-check: stepped", pool["env_id"])
begun = post("/reset", {"seed": 1})
assert begun["done"] is False and begun["observation"]["state"], begun
print("image-check: began an OpenEnv episode")
try:
    page = ask(f"{url}/web/", timeout=10).read()
    assert b"<html" in page.lower(), page[:200]
    print("image-check: the page at /web answers")
except urllib.error.HTTPError as error:
    if error.code != 404:
        raise
    print("image-check: there is no page at /web in this version")
PYTHON
}

if docker info >/dev/null 2>&1; then
    docker build --quiet --tag vecserver-check .
    container=$(docker run --detach --rm --env VECSERVER_TOKEN --publish "127.0.0.1:$port:8000" vecserver-check)
    trap 'docker stop --time 5 "$container" >/dev/null' EXIT
    try "$port"
    health=starting
    for _ in $(seq 60); do
        health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
        [ "$health" = starting ] || break
        sleep 0.5
    done
    [ "$health" = healthy ] || { echo "image-check: its own health check says $health" >&2; exit 1; }
    echo "image-check: built and run with docker"
    exit 0
fi

if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    echo "image-check: not done: neither a Docker engine nor buildah and debootstrap are here" >&2
    exit 1
fi
build="buildah --storage-driver vfs"
if ! $build images -q "$base" >/dev/null 2>&1; then
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        bookworm "$root" "${DEBIAN_MIRROR:?set DEBIAN_MIRROR to the address of a Debian mirror}"
    ln -sf python3 "$root/usr/bin/python"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    made=$($build from scratch)
    $build add -q "$made" "$root" / >/dev/null
    $build config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
        --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$made"
    $build commit -q "$made" "$base" >/dev/null
    $build rm "$made" >/dev/null
    rm -rf "$root"
fi
$build bud --format docker --isolation chroot --network host --pull-never --tag vecserver-check .
container=$($build from --pull-never vecserver-check)
server=

# buildah hands no signal on to what it runs: this is the first process below it that is not buildah
inside() {
    local process=$server
    while ps -o args= -p "$process" | grep -q ^buildah; do
        process=$(pgrep -P "$process" | head -n 1)
    done
    echo "$process"
}

# end the server as `docker stop` does, and wait for it, whatever happened before
end() {
    trap - EXIT
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        local process
        process=$(inside)
        kill -TERM "$process" 2>/dev/null || true
        for _ in $(seq 60); do
            kill -0 "$server" 2>/dev/null || break
            sleep 0.5
        done
        kill -KILL "$process" "$server" 2>/dev/null || true
    fi
    [ -z "$server" ] || wait "$server" || true
    $build rm "$container" >/dev/null
}
trap end EXIT
trap 'exit 1' INT TERM

# buildah runs what it is given: the image's own entry point, with another port, for it shares this machine's
words=$($build inspect --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' "$container" | tr -d '[]')
# shellcheck disable=SC2086 # words of a command line
$build run --isolation chroot --network host --env "VECSERVER_TOKEN=$VECSERVER_TOKEN" "$container" -- ${words/--port 8000/--port $port} &
server=$!
try "$port"
kill -0 "$server" # it was this image's server that answered
user=$(ps -o uid= -p "$(inside)" | tr -d ' ')
[ "$user" = 1000 ] || { echo "image-check: the server runs as user $user" >&2; exit 1; }
end
if [ "$(python3 -c 'import socket, sys; print(socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))))' "$port")" = 0 ]; then
    echo "image-check: the server goes on after SIGTERM" >&2
    exit 1
fi
echo "image-check: built and run with buildah in a chroot, on a base made by debootstrap; ended with SIGTERM"
