#!/bin/sh
# Starts Postgres as the official image does, with the settings that logical replication needs.
# Options after `postgres` come last on the command line, so they win over these.
set -eu

# Since August 2026 (15.19, 16.15, 17.11, 18.6) an output plugin must be on a list to be used; older versions do not
# start with that setting. So the server itself is asked whether it knows it, and what is on the list already.
plugin_list() {
    postgres --describe-config | awk -F '\t' '
        $1 == "output_plugin_libraries" { print $1 "=" ($5 == "" ? "" : $5 ", ") "wal2json" }'
}

case "${1:-postgres}" in
postgres) [ $# -eq 0 ] || shift ;;
-*) ;;
*) exec docker-entrypoint.sh "$@" ;; # some other command
esac

case "${1:-}" in
--help | -\? | --version | -V | --describe-config) ;; # these must come first
*)
    plugins=$(plugin_list)
    [ -z "$plugins" ] || set -- -c "$plugins" "$@"
    set -- -c wal_level=logical -c max_wal_senders=16 -c max_replication_slots=16 "$@"
    ;;
esac
exec docker-entrypoint.sh postgres "$@"
