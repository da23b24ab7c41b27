#!/usr/bin/env bash
# Back up the warehouse: a dump, the roles without passwords, and a manifest of what a restored database must equal.
# Keep the newest backup of each of 7 days and of each of 4 weeks. common.sh says what the environment needs.
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$HERE/common.sh"
readonly DAYS=7 WEEKS=4 ATTEMPTS=5
export PGUSER=${PGUSER:-shop_backup} PGDATABASE=$DATABASE

main() {
    check_programs
    mkdir -p "$FOLDER" || fail "cannot write to $FOLDER. Give this user the right to."
    lock_folder
    rm -rf -- "${FOLDER:?}/$UNFINISHED"* # what a killed backup left
    check_connection "$DATABASE" SHOP_BACKUP_PASSWORD
    check_space
    local started name
    started=$(date --utc +%Y-%m-%dT%H:%M:%S.%3NZ)
    name=$(tr --delete ':-' <<<"$started")
    unfinished=$FOLDER/$UNFINISHED$name
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir "$unfinished"
    dump "$unfinished"
    # The dump is read to its end; `pg_restore --list` would read its beginning.
    run pg_restore --file=/dev/null "$unfinished/$DATABASE.dump" || fail_to "read the dump that it wrote"
    describe "$unfinished" || fail_to "write the manifest"
    run sync "$unfinished"/* "$unfinished" || fail_to "write the backup to the disk"
    mv --no-target-directory "$unfinished" "$FOLDER/$name"
    run sync "$FOLDER"
    rotate "$name"
    record "$name" "$started"
}

clean_up() {
    stop_child
    rm -rf -- "$unfinished"
}

# Before the dump: a full disk stops the other services of this machine too.
check_space() {
    local free needed newest
    free=$(df --output=avail --block-size=1 "$FOLDER" | tail -n 1)
    newest=$(find_newest_backup)
    if [[ -n $newest ]]; then
        needed=$(($(du --summarize --block-size=1 "$FOLDER/$newest" | cut -f 1) * 6 / 5))
    else
        needed=$(psql --no-psqlrc --tuples-only --no-align --command="select pg_database_size('$DATABASE')")
    fi
    ((free >= needed)) || fail "the disk of $FOLDER is full: $((free >> 20)) MiB are free, a backup needs about" \
        "$((needed >> 20)) MiB. Older backups are kept. Free some space, then run this again."
}

# A table that is replaced meanwhile makes an attempt fail.
dump() {
    local attempt
    export BACKUP_DUMP=$1/$DATABASE.dump BACKUP_MANIFEST=$1/manifest.tsv
    for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
        if run psql --no-psqlrc --quiet --no-password --file="$HERE/dump.sql" &&
            run pg_dumpall --no-password --database="$DATABASE" --globals-only --no-role-passwords --file="$1/globals.sql"; then
            return
        fi
        is_full && break
        run sleep "$attempt"
        check_connection "$DATABASE" SHOP_BACKUP_PASSWORD
    done
    fail_to "dump $DATABASE"
}

is_full() {
    (($(df --output=avail --block-size=1 "$FOLDER" | tail -n 1) < 2 ** 20))
}

fail_to() {
    is_full && fail "could not $1: the disk of $FOLDER is full. Older backups are kept. Free some space, then run this again."
    fail "could not $1; the reason is above. Older backups are kept."
}

# Add what shows whether the dump is complete. psql does not report a full disk: check that all lines are there.
describe() {
    local manifest=$1/manifest.tsv dump=$1/$DATABASE.dump counts bytes sum
    counts=$(awk -F '\t' '$2 == "rows" { tables++; rows += $3 } END { printf "%d %.0f", tables, rows }' "$manifest")
    bytes=$(stat --format=%s "$dump")
    sum=$(sha256sum "$dump")
    printf 'backup\t%s\t%s\n' rows "${counts#* }" bytes "$bytes" sha256 "${sum%% *}" >>"$manifest" &&
        [[ $(read_manifest "$manifest" tables) == "${counts% *}" && -n $(read_manifest "$manifest" snapshot_at) ]]
}

rotate() {
    local made=$1 name day week is_kept
    local -A days=() weeks=()
    while read -r name; do
        day=${name%%T*}
        week=$(date --utc --date="$day" +%G-%V)
        is_kept=$([[ $name == "$made" ]] && echo 1 || echo 0)
        [[ ${days[$day]:-} ]] || ((${#days[@]} >= DAYS)) || { days[$day]=1 && is_kept=1; }
        [[ ${weeks[$week]:-} ]] || ((${#weeks[@]} >= WEEKS)) || { weeks[$week]=1 && is_kept=1; }
        ((is_kept)) && continue
        # Renamed first: half a backup has no name.
        mv --no-target-directory "$FOLDER/$name" "$FOLDER/$UNFINISHED$name"
        rm -rf -- "${FOLDER:?}/$UNFINISHED$name"
    done < <(list_backups | sort --reverse)
}

record() {
    local manifest=$FOLDER/$1/manifest.tsv bytes rows
    bytes=$(read_manifest "$manifest" bytes) rows=$(read_manifest "$manifest" rows)
    psql --no-psqlrc --quiet --no-password --set=ON_ERROR_STOP=1 --set=file="$1" --set=started="$2" \
        --set=bytes="$bytes" --set=rows="$rows" <<'SQL' || fail "the backup $FOLDER/$1 is complete, but ops.backups does not have it; the reason is above."
insert into ops.backups (file, started_at, finished_at, bytes, rows)
values (:'file', :'started', clock_timestamp(), :bytes, :rows);
SQL
    printf 'Backed up %s: %s rows, %s KiB in %s/%s. Backups kept: %s.\n' \
        "$DATABASE" "$rows" "$((bytes >> 10))" "$FOLDER" "$1" "$(list_backups | wc --lines)"
}

main
