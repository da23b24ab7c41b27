#!/usr/bin/env bash
# Back up every SHOP_BACKUP_HOURS until SIGTERM. `schedule.sh health` fails if the newest backup is too old.
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$HERE/common.sh"
readonly RETRY_S=300
[[ ${SHOP_BACKUP_HOURS:-} =~ ^[1-9][0-9]{0,3}$ ]] || fail "SHOP_BACKUP_HOURS is a number of hours, from 1 to 9999."
readonly INTERVAL_S=$((SHOP_BACKUP_HOURS * 3600))

main() {
    trap 'stop_child; exit 0' TERM INT HUP
    local wait_s has_failed=0
    while true; do
        wait_s=$((INTERVAL_S - $(age)))
        # After a failure also if there is a new backup: ops.backups may not have it.
        if ((has_failed || wait_s <= 0)); then
            has_failed=0
            if ! run bash "$HERE/backup.sh"; then
                has_failed=1 wait_s=$RETRY_S
                printf 'Trying again in %s s.\n' "$RETRY_S" >&2
            fi
        fi
        ((wait_s <= 0)) || run sleep "$wait_s" || true
    done
}

check_health() {
    (($(age) < INTERVAL_S + 3600)) || fail "the newest backup in $FOLDER is $(age) s old. The log has the reason."
}

# Seconds since the newest backup was made.
age() {
    local newest
    newest=$(find_newest_backup)
    # 20261129T215216.123Z
    [[ $newest ]] || newest=19700101T000000.000Z
    echo $(($(date +%s) - $(date --utc --date="${newest:0:8} ${newest:9:2}:${newest:11:2}:${newest:13:2}" +%s)))
}

case ${1:-} in
    health) check_health ;;
    *) main ;;
esac
