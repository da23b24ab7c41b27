#!/usr/bin/env bash
# Restore the newest backup into a scratch database, compare it with the manifest, drop it. The warehouse is only read.
# common.sh says what the environment needs; the user is the server's administrator.
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$HERE/common.sh"
readonly PREFIX=restore_drill_
export PGUSER=${PGUSER:-postgres} PGDATABASE=postgres

main() {
    local name dump started restored
    check_programs
    [[ -d $FOLDER ]] || fail_without_backup
    lock_folder
    name=$(find_newest_backup)
    [[ -n $name ]] || fail_without_backup
    check_connection postgres SHOP_POSTGRES_PASSWORD
    backup=$FOLDER/$name dump=$FOLDER/$name/$DATABASE.dump
    printf 'Backup %s\n' "$backup"
    check_files "$backup" "$dump"

    drop_scratch_databases # what a killed drill left
    check_space
    scratch=$PREFIX$$
    work=$(mktemp --directory)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    started=${EPOCHREALTIME/./}
    ask postgres "create database $scratch template template0"
    run pg_restore --no-password --exit-on-error --dbname="$scratch" "$dump" ||
        fail "cannot restore $dump; the reason is above. $(advise)"
    restored=${EPOCHREALTIME/./}
    compare
    printf '✓ Rows, sums, checksums, owners and rights of %s tables equal the manifest.\n' \
        "$(read_manifest "$backup/manifest.tsv" tables)"
    awk -v us=$((restored - started)) 'BEGIN { printf "Recovery time: %.1f s to create and restore the database\n", us / 1e6 }'
    describe_recovery_point
}

fail_without_backup() {
    fail "there is no complete backup in $FOLDER. Make one: make backup"
}

# The copy is on the disk of the running server, which a full disk would stop.
check_space() {
    local folder size free
    folder=$(ask postgres "show data_directory") size=$(ask postgres "select pg_database_size('$DATABASE')")
    free=$(df --output=avail --block-size=1 "$folder" | tail -n 1)
    ((free >= size * 6 / 5)) || fail "the disk of $folder is full: $((free >> 20)) MiB are free, the drill needs about" \
        "$((size * 6 / 5 >> 20)) MiB. Free some space, then run this again."
}

advise() {
    local older name
    name=$(basename "$backup")
    older=$(list_backups | sed "/^$name$/,\$d" | tail -n 1)
    if [[ -z $older ]]; then
        printf 'Make another: make backup'
    else
        printf 'Make another (make backup); the one before is %s.' "$FOLDER/$older"
    fi
}

check_files() {
    local backup=$1 dump=$2 file bytes actual sum
    for file in "$dump" "$backup/manifest.tsv" "$backup/globals.sql"; do
        [[ -s $file ]] || fail "$file is missing or empty. $(advise)"
    done
    bytes=$(read_manifest "$backup/manifest.tsv" bytes)
    [[ $bytes ]] || fail "$backup/manifest.tsv is cut short. $(advise)"
    actual=$(stat --format=%s "$dump")
    ((actual >= bytes)) || fail "$dump is cut short: it has $actual of $bytes bytes. $(advise)"
    sum=$(sha256sum "$dump")
    [[ ${sum%% *} == "$(read_manifest "$backup/manifest.tsv" sha256)" ]] ||
        fail "$dump was changed since it was written: its SHA-256 differs from that in manifest.tsv. $(advise)"
}

compare() {
    local differences=$work/differences
    DRILL_MANIFEST=$backup/manifest.tsv DRILL_RESTORED=$work/restored DRILL_DIFFERENCES=$differences \
        run psql --no-psqlrc --quiet --no-password --dbname="$scratch" --file="$HERE/compare.sql" ||
        fail "cannot compare the restored database with $backup/manifest.tsv; the reason is above."
    [[ -s $differences ]] || return 0
    cat "$differences" >&2
    fail "the restored database differs from $backup/manifest.tsv in $(wc --lines <"$differences") places. $(advise)"
}

# What a recovery would lose: marts are built from raw.
describe_recovery_point() {
    local snapshot_at age rows live
    snapshot_at=$(read_manifest "$backup/manifest.tsv" snapshot_at)
    age=$(($(date +%s) - $(date --date="$snapshot_at" +%s)))
    rows=$(awk -F '\t' '$1 ~ /^raw\./ && $2 == "rows" { rows += $3 } END { printf "%.0f", rows }' "$backup/manifest.tsv")
    live=$(count_raw_rows) || live=
    printf 'Recovery point: %s UTC, %d:%02d:%02d ago; ' "${snapshot_at%%.*}" $((age / 3600)) $((age / 60 % 60)) $((age % 60))
    if [[ $live ]]; then
        printf '%+d rows in raw since\n' $((live - rows))
    else
        printf '%s cannot be read now\n' "$DATABASE"
    fi
}

count_raw_rows() {
    psql --no-psqlrc --quiet --no-password --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$DATABASE" <<'SQL'
select 'select ' || coalesce(string_agg(format('(select count(*) from raw.%I)', tablename), ' + '), '0')
from pg_tables where schemaname = 'raw'
\gexec
SQL
}

ask() {
    psql --no-psqlrc --quiet --no-password --tuples-only --no-align --dbname="$1" --command="$2"
}

drop_scratch_databases() {
    local database
    for database in $(ask postgres "select datname from pg_database where datname ~ '^${PREFIX}[0-9]+$'"); do
        ask postgres "drop database if exists $database with (force)"
    done
}

clean_up() {
    stop_child
    rm -rf -- "$work"
    drop_scratch_databases
}

main
