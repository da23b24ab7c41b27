# shellcheck shell=bash disable=SC2034
# What the scripts in this folder share. They run in the image of PostgreSQL and on a machine without Docker.
#
# The environment has the server (PGHOST; PGPORT or SHOP_POSTGRES_PORT), the password (PGPASSWORD) and the folder (BACKUP_FOLDER).
# A backup is a folder below BACKUP_FOLDER, named by its time. It gets its name when all of it is on the disk.
set -euo pipefail
shopt -s inherit_errexit nullglob
umask 077

export PGPORT=${PGPORT:-${SHOP_POSTGRES_PORT:-5432}}
export LC_ALL=C.UTF-8 PGCLIENTENCODING=UTF8 PGAPPNAME=datastream-backup PGCONNECT_TIMEOUT=10
DATABASE=data_warehouse
FOLDER=${BACKUP_FOLDER:?set it to the folder of the backups}
UNFINISHED=.unfinished-
child=

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Run a command that a signal to this script can interrupt: bash handles signals in `wait`, not during a command.
run() {
    # A process group, psql and pg_dump below it; a session, so that a terminal does not stop them.
    setsid "$@" </dev/null &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

stop_child() {
    [[ $child ]] || return 0
    # The second one: it has no group yet.
    kill -TERM -- "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null || true
    wait "$child" || true
}

check_programs() {
    command -v flock >/dev/null || fail "flock is missing. Install util-linux."
    command -v pg_dump >/dev/null || fail "pg_dump is missing. Install the client programs of PostgreSQL."
}

# One backup or restore drill at a time. Children keep the lock, so what a killed script started counts too.
lock_folder() {
    exec {lock}<"$FOLDER"
    flock --nonblock "$lock" || fail "another backup or restore drill uses $FOLDER. Run this again when it is done."
}

check_connection() {
    local database=$1 setting=$2 reason
    reason=$(psql --no-psqlrc --no-password --dbname="$database" --command="select" 2>&1 >/dev/null) && return
    reason=${reason#psql: error: }
    reason=${reason%%$'\n'*}
    case $reason in
        *"authentication failed"* | *"no password supplied"* | *"does not exist"* | *"permission denied"*)
            fail "PostgreSQL rejects $PGUSER: $reason. Set $setting in .env, then set up the database again:" \
                "docker compose --profile shop up -d --wait (Docker), or make local-up VERTICAL=shop (without Docker)." ;;
        *)
            fail "PostgreSQL does not answer: $reason. Start the profile: docker compose --profile shop up -d --wait" \
                "(Docker), or make local-up VERTICAL=shop (without Docker)." ;;
    esac
}

# Names of the complete backups, oldest first.
list_backups() {
    local path
    for path in "$FOLDER"/[0-9]*T[0-9]*Z/; do
        basename "$path"
    done
}

# Not one of the future, which a wrong clock has made: it would stay the newest.
find_newest_backup() {
    list_backups | awk -v now="$(date --utc +%Y%m%dT%H%M%S.%3NZ)" '$0 <= now { name = $0 } END { print name }'
}

# The value of a line of a manifest.
read_manifest() {
    awk -F '\t' -v item="$2" '$1 == "backup" && $2 == item { print $3 }' "$1"
}
