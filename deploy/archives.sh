# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh and backup.sh give or read
# What is no database: archives of files, encrypted by age to public keys, in the folder of backups and in S3 storage. A part of
# backup.sh, which sources it.

# ---- S3 ---------------------------------------------------------------------------------------------------------------------
s3_secret() {
    [ -s "$secrets_dir/backup/$1" ] || fail "the credential $secrets_dir/backup/$1 of the S3 storage is missing" "put it there, mode 600"
    cat "$secrets_dir/backup/$1"
}
bucket_of() {
    local bucket=""
    [ "$1" != keystore ] || bucket=$(conf BACKUP_S3_KEYSTORE_BUCKET)
    printf '%s' "${bucket:-$(conf BACKUP_S3_BUCKET)}"
}

# s3 METHOD BUCKET PATH [OPTIONS...]    the credentials go by standard input, where no list of processes shows them
s3() {
    local method=$1 bucket=$2 path=$3 endpoint key secret ca url status=0 answer
    shift 3
    endpoint=$(conf BACKUP_S3_ENDPOINT)
    url=${endpoint%/}/$bucket/$path
    [ "$(conf BACKUP_S3_URI_STYLE)" = path ] || url=https://$bucket.${endpoint#https://}/$path
    key=$(s3_secret s3_key) secret=$(s3_secret s3_key_secret) ca=$(conf BACKUP_S3_CA_FILE)
    answer=$(printf 'user = "%s:%s"\n' "$key" "$secret" | curl --config - --silent --show-error --fail-with-body --max-time 600 \
        --aws-sigv4 "aws:amz:$(conf BACKUP_S3_REGION):s3" --request "$method" ${ca:+--cacert "$ca"} "$@" "$url" 2>&1) || status=$?
    [ "$status" -eq 0 ] || fail "the S3 storage does not do $method $path (curl $status): $(head -c 300 <<<"$answer" | tr '\n' ' ')" \
        "look at BACKUP_S3_* in $home/deploy.conf and at the credentials in $secrets_dir/backup"
    printf '%s' "$answer"
}
readonly sha256_of_nothing=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

# pgBackRest would try for minutes.
storage_answers() {
    local endpoint ca
    [[ " ${repos[*]} " == *" 2 "* ]] || return 0
    endpoint=$(conf BACKUP_S3_ENDPOINT) ca=$(conf BACKUP_S3_CA_FILE)
    curl --silent --output /dev/null --connect-timeout 10 --max-time 30 ${ca:+--cacert "$ca"} "$endpoint" ||
        fail "the S3 storage is away: $endpoint does not answer, or its certificate is not trusted (curl $?)" \
            "bring it back; the write-ahead log waits in the clusters meanwhile. BACKUP_S3_CA_FILE names another authority"
}

# A bucket that keeps old versions keeps what was deleted.
no_versions() {
    local answer
    [[ " ${repos[*]} " == *" 2 "* ]] || return 0
    answer=$(s3 GET "$(bucket_of "$1")" '?versioning=' --header "x-amz-content-sha256: $sha256_of_nothing")
    [[ $answer != *"<Status>Enabled"* ]] ||
        fail "the bucket $(bucket_of "$1") keeps old versions, so backups of the key store would outlive the promise of erasure" \
            "name a bucket without versions by BACKUP_S3_KEYSTORE_BUCKET"
}

# ---- archives ---------------------------------------------------------------------------------------------------------------
# recipient_of PART    the file with the public keys to which it is encrypted
recipient_of() {
    local file=$secrets_dir/backup/recipients other
    case $1 in
        redis | configuration) file+=/configuration.txt ;;
        *) file+=/$1.txt ;;
    esac
    ! grep -rq AGE-SECRET-KEY "$secrets_dir/backup" ||
        fail "a private key of age lies in $secrets_dir/backup: whoever takes this host opens every backup" "move it to another machine, and make another pair"
    grep -q '^age1' "$file" 2>/dev/null ||
        fail "there is no recipient for $1 ($file)" \
            "on another machine: age-keygen -o $1.identity; its public key (age1...) goes into that file, the identity into a safe"
    for other in "${file%/*}"/*.txt; do
        [ "$other" = "$file" ] || [ -z "$(grep '^age1' "$file" | grep -xFf <(grep '^age1' "$other") || true)" ] ||
            fail "$file and $other have a recipient in common" "give each its own pair: who may open one need not open the other"
    done
    printf '%s' "$file"
}

# contents_of PART    what goes into it, as arguments of tar
contents_of() {
    local name
    # The evaluation key is large, no secret, and made again by `velum keys generate --kind evaluation`.
    contents=(--exclude=evaluation.key)
    case $1 in
        configuration)
            contents+=(--exclude=__pycache__ -C "$home" deploy.conf state -C "$here")
            for name in deploy docker-compose.{prod,logging,keyholder}.yml nginx monitoring images; do [ ! -e "$here/$name" ] || contents+=("$name"); done
            ;;
        redis) contents+=(-C "$work" redis) ;;
        secrets)
            contents+=(-C "$secrets_dir")
            while IFS= read -r name; do contents+=("$name"); done < <(find "$secrets_dir" -mindepth 1 -maxdepth 1 \
                ! -name backup ! -name keyholder -printf '%f\n' | sort)
            ;;
        keyholder) contents+=(-C "$secrets_dir" keyholder -C "$work" journal) ;;
        passes) contents+=(--exclude=pgbackrest.conf* --exclude=s3_ca.pem -C "$secrets_dir" backup) ;;
    esac
}

back_up_files() {
    local part=$1 recipients contents=() work name file began=$EPOCHREALTIME
    begin "$part: archive"
    recipients=$(recipient_of "$part")
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # this folder
    trap "rm -rf '$work'" EXIT
    case $part in
        redis) copy_redis ;;
        keyholder)
            [ -d "$secrets_dir/keyholder" ] ||
                fail "the keyholder's keys are not on this host" "run its backup there, and take keyholder out of BACKUP_PARTS here"
            copy_journal
            ;;
    esac
    contents_of "$part"
    name=$part-$(date -u +%Y%m%dT%H%M%SZ).tar.gz.age
    file=$archives_dir/$name
    if dry; then
        say "    would write: $file, for $(grep -c '^age1' "$recipients") recipients"
        return
    fi
    mkdir -p "$archives_dir"
    # Under another name until it is whole and on the disk.
    if ! { tar --create --gzip --numeric-owner "${contents[@]}" | age --encrypt --recipients-file "$recipients" --output "$archives_dir/.new-$part" &&
        chmod 600 "$archives_dir/.new-$part" && sync "$archives_dir/.new-$part" && mv -fT "$archives_dir/.new-$part" "$file"; }; then
        rm -f "$archives_dir/.new-$part"
        fail "the archive of $part could not be written; nothing half-written counts as a backup" "look above, and at free space: df -h $archives_dir"
    fi
    if [[ " ${repos[*]} " == *" 2 "* ]]; then
        upload "$file"
        record "$part" backup passed repository s3 label "$name" bytes:raw "$(stat -c %s "$file")" seconds:raw "$(since "$began")"
    fi
    if [ "$(conf BACKUP_LOCAL)" = yes ]; then
        record "$part" backup passed repository local label "$name" bytes:raw "$(stat -c %s "$file")" seconds:raw "$(since "$began")"
    else
        rm -f "$file"
    fi
    expire_archives "$part"
    say "    $name, done in $(since "$began") s"
}

# Redis may be lost without harm; what is kept spares counters from beginning anew. Its files are copied while it writes, so the
# list of them must be the same before and after.
copy_redis() {
    local attempt before
    [ -d "$data_dir/redis" ] || fail "there is no Redis in $data_dir/redis" "take redis out of BACKUP_PARTS"
    for attempt in 1 2 3 4 5; do
        rm -rf "${work:?}/redis"
        before=$(find "$data_dir/redis" -name '*.manifest' -exec cat {} + | sha256sum)
        cp -a --reflink=auto "$data_dir/redis" "$work/redis" 2>/dev/null &&
            [ "$before" = "$(find "$data_dir/redis" -name '*.manifest' -exec cat {} + | sha256sum)" ] && return
        sleep 1
    done
    fail "Redis rewrites its files all the time (attempt $attempt)" "run this again"
}

# The keyholder's journal as it is at one moment.
copy_journal() {
    local file become=()
    mkdir "$work/journal"
    if [ -s "$secrets_dir/keyholder/journal_url" ]; then
        dump_journal
        return
    fi
    need sqlite3 sqlite3
    for file in "$data_dir"/keyholder/*.db; do
        [ -e "$file" ] || fail "there is no journal of the keyholder in $data_dir/keyholder" "start the keyholder once"
        # As its owner: what SQLite makes beside the file must be the keyholder's.
        [ "$(id -u)" -ne 0 ] || become=(setpriv --reuid "$(stat -c %u "$file")" --regid "$(stat -c %g "$file")" --clear-groups)
        [ "$(id -u)" -ne 0 ] || chown "$(stat -c %u "$file")" "$work" "$work/journal"
        "${become[@]}" sqlite3 -cmd '.timeout 10000' "$file" ".backup '$work/journal/$(basename "$file")'" ||
            fail "the journal $file could not be copied by its owner (above)" "may that user reach it? namei -l $file"
        [ "$(sqlite3 "$work/journal/$(basename "$file")" 'PRAGMA integrity_check')" = ok ] ||
            fail "the copy of the journal $file is not sound" "stop the keyholder and look at its disk"
    done
}
# The address holds a password, which no list of processes may show.
dump_journal() {
    local url password
    need pg_dump postgresql-client-15
    url=$(cat "$secrets_dir/keyholder/journal_url")
    [[ $url =~ ^postgres(ql)?://([^:@]+):([^@]*)@([^:/?]+)(:([0-9]+))?/([^?]+)(\?(.*))?$ ]] ||
        fail "$secrets_dir/keyholder/journal_url is no address of a database" "postgres://USER:PASSWORD@HOST/NAME"
    printf -v password '%b' "${BASH_REMATCH[3]//%/\\x}"
    printf '[journal]\nuser=%s\npassword=%s\nhost=%s\nport=%s\ndbname=%s\n%s\n' "${BASH_REMATCH[2]}" "$password" "${BASH_REMATCH[4]}" \
        "${BASH_REMATCH[6]:-5432}" "${BASH_REMATCH[7]}" "${BASH_REMATCH[9]//&/$'\n'}" >"$work/service"
    PGSERVICEFILE=$work/service pg_dump --format custom --dbname service=journal --file "$work/journal/journal.dump"
}

upload() {
    local file=$1 back
    s3 PUT "$(conf BACKUP_S3_BUCKET)" "velum/archives/$(basename "$file")" --upload-file "$file" \
        --header "x-amz-content-sha256: $(sha256sum "$file" | cut -d ' ' -f 1)" >/dev/null
    back=$(mktemp -p "$work")
    s3 GET "$(conf BACKUP_S3_BUCKET)" "velum/archives/$(basename "$file")" --output "$back" --header "x-amz-content-sha256: $sha256_of_nothing"
    cmp --quiet "$file" "$back" || fail "the S3 storage gives another $(basename "$file") back than it was given" "do not rely on that storage"
}

# archives_of PART REPO    names, oldest first
archives_of() {
    if [ "$2" = 1 ]; then
        [ ! -d "$archives_dir" ] || find "$archives_dir" -name "$1-*.age" -printf '%f\n' | sort
    else
        s3 GET "$(conf BACKUP_S3_BUCKET)" "?list-type=2&prefix=velum%2Farchives%2F$1-" --header "x-amz-content-sha256: $sha256_of_nothing" |
            grep -o '<Key>[^<]*</Key>' | sed 's#<Key>velum/archives/##; s#</Key>##' | sort || true
    fi
}
# The newest stays however old it is.
expire_archives() {
    local repo name limit oldest
    limit=$(date -u -d "@$((EPOCHSECONDS - $(keep_days "$1") * 86400))" +%Y%m%dT%H%M%SZ)
    for repo in "${repos[@]}"; do
        while IFS= read -r name; do
            [[ ${name#"$1-"} < $limit ]] || continue
            if [ "$repo" = 1 ]; then
                run rm -f "$archives_dir/$name"
            else
                run s3 DELETE "$(conf BACKUP_S3_BUCKET)" "velum/archives/$name" --header "x-amz-content-sha256: $sha256_of_nothing" >/dev/null
            fi
        done < <(archives_of "$1" "$repo" | head -n -1)
        oldest=$(archives_of "$1" "$repo" | head -n 1 | sed 's/.*-\(....\)\(..\)\(..T..\)\(..\)\(..Z\).*/\1-\2-\3:\4:\5/')
        record "$1" expire passed repository "$(repo_name "$repo")" oldest:raw "$(date -u -d "$oldest" +%s)"
    done
}

# With an identity: does the newest archive open, and is in it what lies here?
verify_files() {
    local part=$1 contents=() work name repo began=$EPOCHREALTIME
    if [ ${#identities[@]} -eq 0 ]; then
        say "==> $part: not opened, for that takes --identity"
        return
    fi
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # this folder
    trap "rm -rf '$work'" EXIT
    for repo in "${repos[@]}"; do
        name=$(archives_of "$part" "$repo" | tail -n 1)
        [ -n "$name" ] || fail "there is no archive of $part in $(repo_name "$repo")" "deploy.sh backup run $part"
        begin "$part: $name of $(repo_name "$repo") opened and compared"
        mkdir -p "$work/opened"
        [ "$repo" = 1 ] || s3 GET "$(conf BACKUP_S3_BUCKET)" "velum/archives/$name" --output "$work/$name" --header "x-amz-content-sha256: $sha256_of_nothing"
        age --decrypt "${identities[@]}" "$([ "$repo" = 1 ] && printf '%s' "$archives_dir/$name" || printf '%s' "$work/$name")" 2>"$work/said" |
            tar --extract --gzip --directory "$work/opened" 2>>"$work/said" ||
            fail "$name does not open: $(head -n 1 "$work/said")" "bring the identity of that recipient, or make another archive: deploy.sh backup run $part"
        case $part in
            secrets | passes) same_as_here "$work/opened" "$secrets_dir" ;;
            keyholder) same_as_here "$work/opened/keyholder" "$secrets_dir/keyholder" ;;
        esac
        record "$part" verify passed repository "$(repo_name "$repo")" label "$name" seconds:raw "$(since "$began")"
        say "    $(find "$work/opened" -type f | wc -l) files; done in $(since "$began") s"
        rm -rf "${work:?}/opened"
    done
}
same_as_here() {
    local file
    while IFS= read -r file; do
        cmp --quiet "$1/$file" "$2/$file" || fail "$file in the archive is not the one of this host" "if it was changed on purpose: deploy.sh backup run"
    done < <(cd "$1" && find . -type f)
}
