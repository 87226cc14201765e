# shellcheck shell=bash disable=SC2154 # names that common.sh gives
# secrets init, keyholder, check: what secrets/README.md lists, made by the libraries that will use it, with owner and mode.
#
# A secret has the same path in a container as on the host, so that one set serves both drivers.

help_secrets() {
    cat <<-'END'
	usage: deploy.sh secrets init RELEASE | keyholder FOLDER | check
	Make the secrets of an installation, or say what is wrong with them.

	init       makes what is missing and replaces inner certificates that end within 60 days; nothing else is ever overwritten.
	           Keys are made by the program of RELEASE. Restart what uses a new certificate: deploy.sh deploy RELEASE --again
	keyholder  for a keyholder on a host of its own, into FOLDER, which must not be there: a certificate for the host that
	           VELUM_KEYHOLDER names, and the authority of the edges that it admits. Bring them to secrets/keyholder on its host
	check      owner, mode, strength, certificates, nothing shared between two purposes; every problem with its mend
	END
}

command_secrets() {
    case "${1:-}/$#" in
        init/2)
            local program=()
            secrets_program "$2"
            take_lock secrets init
            secrets_init "${program[@]}"
            ;;
        keyholder/2)
            take_lock secrets keyholder
            secrets_for_keyholder "$2"
            ;;
        check/1) secrets_check ;;
        *) fail "expected secrets init RELEASE, secrets keyholder FOLDER or secrets check" "deploy.sh help secrets" ;;
    esac
}

# Fills `program`, the words before an argument of `velum`: without network, settings or rights beyond the folder of secrets.
secrets_program() {
    local release=$1
    case $(conf DRIVER) in
        compose)
            program=(docker run --rm --network none --user 0:0 --cap-drop ALL --cap-add DAC_OVERRIDE --security-opt no-new-privileges
                --read-only --volume "$secrets_dir:$secrets_dir" "velum/app:$release")
            ;;
        *) program=(env -i "$releases_dir/$release/bin/velum") ;;
    esac
}

readonly secrets_days=397 secrets_renew_days=60 secrets_authority_days=3650 secrets_authority_renew_days=180
readonly secrets_clusters=(main keystore ledger)

# The folder and the host name of a cluster: the main one is `postgres`.
secrets_folder_of() { if [ "$1" = main ]; then printf postgres; else printf '%s' "$1"; fi; }

# ---- init -------------------------------------------------------------------------------------------------------------------
# secrets_init PROGRAM...    PROGRAM is a velum, or the words that run one
secrets_init() {
    need openssl openssl
    local work mask
    [[ $secrets_dir =~ ^/[A-Za-z0-9._/-]+$ ]] || fail "the path $secrets_dir cannot stand in the address of a database" "choose a plain --home"
    if [ "$(id -u)" -ne 0 ]; then warn "not root: every secret will belong to $(id -un), and containers cannot read them"; fi
    begin "secrets in $secrets_dir"
    if dry; then
        say "    would make what is missing (deploy.sh secrets check lists it)"
        return
    fi
    mask=$(umask)
    umask 077
    mkdir -p "$secrets_dir"
    chmod 711 "$secrets_dir" # each service finds its own folder, and none can list the others
    ! secrets_keyholder_here || mkdir -p "$secrets_dir"/keyholder/{fhe,tls}
    mkdir -p "$secrets_dir"/{ca,app/{fhe,tls,postgres_client,keyholder_client},migrate/postgres_client,postgres,keystore,ledger} \
        "$secrets_dir"/{redis,nginx/tls,backup/{main,keystore,ledger,recipients},smoke,monitoring,logging,elasticsearch,kibana}
    rm -rf "$secrets_dir"/ca/.work.* # of a run that was killed
    work=$(mktemp -d "$secrets_dir/ca/.work.XXXXXX")
    secrets_keys "$@"
    secrets_certificates "$work"
    secrets_databases
    secrets_redis
    secrets_watching
    secrets_backup
    rm -rf "$work"
    secrets_owners
    umask "$mask"
    secrets_check
}

# On a host that is an edge alone the folder was brought to the keyholder's own, and only the public halves are left.
secrets_keyholder_here() { [ -d "$secrets_dir/keyholder" ] || [ ! -e "$secrets_dir/app/fhe/public.key" ]; }

# The host at which edges ask for the keyholder: the name that its certificate must carry.
secrets_keyholder_name() {
    local name=keyholder
    if [[ $(conf_velum_value VELUM_KEYHOLDER) =~ ^https://(\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(:[0-9]+)?/?$ ]]; then
        name=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
    fi
    printf '%s' "$name"
}
secrets_is_address() { [[ $1 == *:* || $1 =~ ^[0-9.]+$ ]]; }
# secrets_carries CERTIFICATE NAME
secrets_carries() {
    local how=-checkhost
    ! secrets_is_address "$2" || how=-checkip
    [[ $(openssl x509 -in "$1" -noout "$how" "$2" 2>/dev/null) == *"does match"* ]]
}

# The encryption's keys are made apart, so that the secret one is never where the edge can read it.
secrets_keys() {
    local made=$secrets_dir/keyholder kind
    [ ! -e "$secrets_dir/app/fhe/secret.key" ] || fail "$secrets_dir/app/fhe holds secret.key, which belongs to the keyholder alone" \
        "mv $secrets_dir/app/fhe/secret.key $secrets_dir/keyholder/fhe/"
    for kind in jwt evidence kek pepper blind-index; do
        secrets_has_kind "$kind" || secrets_generate "$secrets_dir/app" "$kind" "$@"
    done
    if [ ! -e "$made/fhe/public.key" ] && [ ! -e "$secrets_dir/app/fhe/public.key" ]; then
        secrets_generate "$made" fhe "$@"
    fi
    # One that was lost is made anew: every template stays as it is.
    if [ ! -e "$secrets_dir/app/fhe/evaluation.key" ] && [ ! -e "$made/fhe/evaluation.key" ] && [ -e "$made/fhe/secret.key" ]; then
        secrets_generate "$made" evaluation "$@"
    fi
    if [ -e "$made/fhe/evaluation.key" ]; then mv "$made/fhe/evaluation.key" "$secrets_dir/app/fhe/"; fi
    if [ ! -e "$secrets_dir/app/fhe/public.key" ]; then cp "$made/fhe/public.key" "$secrets_dir/app/fhe/"; fi
}

# secrets_generate FOLDER KIND PROGRAM...
secrets_generate() {
    local folder=$1 kind=$2 told
    shift 2
    told=$("$@" keys generate --kind "$kind" --out "$folder" 2>&1) ||
        fail "the $kind key was not made: $(tail -n 1 <<<"$told")" "look whether the release runs: ${*} --version"
    say "    made ${folder##*/}: $kind"
}
secrets_has_kind() {
    local app=$secrets_dir/app
    case $1 in
        jwt | evidence) compgen -G "$app/$1/*.pem" >/dev/null ;;
        kek) compgen -G "$app/kek/*.key" >/dev/null ;;
        pepper) [ -e "$app/client_secret_pepper.key" ] ;;
        blind-index) [ -e "$app/blind_index.key" ] ;;
    esac
}

# Two authorities. `inner` says who a server of ours is, and who is which role in PostgreSQL; `edges` says who may ask the
# keyholder for decisions, and nothing else.
secrets_certificates() {
    local work=$1 cluster folder role
    secrets_authority inner "Velum inner"
    secrets_authority edges "Velum edges"
    secrets_certificate "$work" inner server app/tls/certificate.pem app/tls/key.pem velum.internal
    ! secrets_keyholder_here || secrets_certificate "$work" inner server keyholder/tls/certificate.pem keyholder/tls/key.pem \
        "$(secrets_keyholder_name)"
    secrets_certificate "$work" inner server redis/server.crt redis/server.key redis
    secrets_certificate "$work" inner server elasticsearch/server.crt elasticsearch/server.key elasticsearch
    for cluster in "${secrets_clusters[@]}"; do
        folder=$(secrets_folder_of "$cluster")
        secrets_certificate "$work" inner server "$folder/server.crt" "$folder/server.key" "$folder"
    done
    # PostgreSQL takes the common name for the role.
    secrets_certificate "$work" inner client app/postgres_client/certificate.pem app/postgres_client/key.pem velum
    secrets_certificate "$work" inner client migrate/postgres_client/certificate.pem migrate/postgres_client/key.pem velum_owner
    secrets_certificate "$work" inner client monitoring/postgres_client.pem monitoring/postgres_client.key velum_metrics
    secrets_certificate "$work" edges client app/keyholder_client/certificate.pem app/keyholder_client/key.pem edge
    for folder in app migrate postgres keystore ledger redis monitoring logging elasticsearch kibana; do
        secrets_copy ca/inner.pem "$folder/ca.pem"
    done
    secrets_copy ca/inner.pem nginx/inner_ca.pem
    ! secrets_keyholder_here || secrets_copy ca/edges.pem keyholder/edge_ca.pem
}

secrets_copy() { cmp --quiet "$secrets_dir/$1" "$secrets_dir/$2" || cp "$secrets_dir/$1" "$secrets_dir/$2"; }

# What a keyholder on a host of its own is given from here: it has no authority.
secrets_for_keyholder() {
    need openssl openssl
    local folder=$1 name work
    name=$(secrets_keyholder_name)
    [[ $folder == /* ]] || fail "$folder is no absolute path" "deploy.sh secrets keyholder /root/for-the-keyholder"
    [ ! -e "$folder" ] || fail "$folder is there already, and nothing was changed" "name another folder, or remove it"
    [[ $(conf_velum_value VELUM_KEYHOLDER) == https://* ]] ||
        fail "VELUM_KEYHOLDER does not say where the keyholder is" "add VELUM_KEYHOLDER=https://ITS-NAME:8444 to $home/deploy.conf"
    [ -e "$secrets_dir/ca/inner.key" ] ||
        fail "the authority is not here: $secrets_dir/ca/inner.key" "run this where it lies, or deploy.sh secrets init RELEASE first"
    begin "for the keyholder at $name, in $folder"
    if dry; then
        say "    would make tls/certificate.pem, tls/key.pem and edge_ca.pem"
        return
    fi
    umask 077
    mkdir -p "$folder/tls"
    work=$(mktemp -d "$secrets_dir/ca/.work.XXXXXX")
    secrets_issue "$work" "$secrets_dir/ca/inner" server "$name"
    mv "$work/key" "$folder/tls/key.pem"
    mv "$work/certificate" "$folder/tls/certificate.pem"
    cp "$secrets_dir/ca/edges.pem" "$folder/edge_ca.pem"
    rm -rf "$work"
    say "    good for $secrets_days days: bring what lies in it to secrets/keyholder on that host, then there: deploy.sh keyholder RELEASE"
}

# secrets_authority NAME SUBJECT
secrets_authority() {
    local path=$secrets_dir/ca/$1
    [ ! -e "$path.pem" ] || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days "$secrets_authority_days" \
        -subj "/CN=$2 authority" -keyout "$path.key.new" -out "$path.pem.new" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
    mv "$path.key.new" "$path.key"
    mv "$path.pem.new" "$path.pem"
    say "    made ca/$1.pem"
}

# secrets_certificate WORK AUTHORITY server|client CERTIFICATE KEY NAME    kept as long as it is good for 60 days
secrets_certificate() {
    local work=$1 authority=$secrets_dir/ca/$2 usage=$3 certificate=$secrets_dir/$4 key=$secrets_dir/$5 name=$6
    if [ -e "$certificate" ] && [ -e "$key" ] && secrets_chain_holds "$authority.pem" "$certificate" &&
        secrets_carries "$certificate" "$name" &&
        openssl x509 -in "$certificate" -noout -checkend $((secrets_renew_days * 86400)) >/dev/null; then
        return
    fi
    [ -e "$authority.key" ] ||
        fail "$4 must be made anew and $authority.key is not here" "run this where the authority lies, and bring the files of $(dirname "$4") here"
    secrets_issue "$work" "$authority" "$usage" "$name"
    # Both are new, or a server that starts between the two renames says so and is started again.
    mv "$work/key" "$key"
    mv "$work/certificate" "$certificate"
    say "    made $4, good for $secrets_days days"
}
# secrets_issue WORK AUTHORITY server|client NAME    WORK/key and WORK/certificate
secrets_issue() {
    local work=$1 authority=$2 usage=$3 name=$4 names
    names="DNS:$name"
    ! secrets_is_address "$name" || names="IP:$name"
    # Beside its own name each server is also what it is on a host without containers.
    [ "$usage" = client ] || names+=",DNS:localhost,IP:127.0.0.1"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$name" -keyout "$work/key" \
        -out "$work/request" 2>/dev/null
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%sAuth\nsubjectAltName=%s\n' \
        "$usage" "$names" >"$work/extensions"
    openssl x509 -req -in "$work/request" -CA "$authority.pem" -CAkey "$authority.key" -set_serial "0x$(openssl rand -hex 16)" \
        -days "$secrets_days" -sha256 -extfile "$work/extensions" -out "$work/certificate" 2>/dev/null
}
secrets_chain_holds() { openssl verify -no-CApath -CAfile "$1" -partial_chain "$2" >/dev/null 2>&1; }

# secrets_random PATH    one line of 48 hexadecimal digits: 192 bits, safe in every URL and configuration file
secrets_random() {
    local path=$secrets_dir/$1
    [ ! -s "$path" ] || return 0
    openssl rand -hex 24 >"$path.new"
    mv "$path.new" "$path"
    say "    made $1"
}

secrets_databases() {
    local cluster folder role
    for cluster in "${secrets_clusters[@]}"; do
        folder=$(secrets_folder_of "$cluster")
        for role in velum velum_owner velum_metrics; do secrets_random "$folder/$role.password"; done
        secrets_url "$cluster" velum app
        secrets_url "$cluster" velum_owner migrate
        secrets_copy "$folder/velum_metrics.password" "monitoring/$folder.password"
    done
}

# secrets_url CLUSTER ROLE FOLDER    the address of a database, with password and certificates, for who reads FOLDER
secrets_url() {
    local cluster=$1 role=$2 folder=$secrets_dir/$3 server name
    server=$(secrets_folder_of "$cluster")
    case $cluster in main) name=database_url ;; *) name=${cluster}_url ;; esac
    secrets_text "$3/$name" "postgres://$role:$(<"$secrets_dir/$server/$role.password")@$(secrets_address "$server" 5432)/$cluster\
?sslmode=verify-full&sslrootcert=$folder/ca.pem&sslcert=$folder/postgres_client/certificate.pem&sslkey=$folder/postgres_client/key.pem"
}

# secrets_address SERVICE PORT    in containers the service's own name; on bare metal what deploy.conf says
secrets_address() {
    if [ "$(conf DRIVER)" = compose ]; then printf '%s:%s' "$1" "$2"; else conf "${1^^}_ADDRESS"; fi
}

# secrets_text PATH TEXT    what follows from other secrets is written anew whenever it differs
secrets_text() {
    local path=$secrets_dir/$1
    if [ ! -e "$path" ] || [ "$(<"$path")" != "$2" ]; then
        printf '%s\n' "$2" >"$path.new"
        mv "$path.new" "$path"
        say "    made $1"
    fi
}

# Redis keeps hashes; who asks keeps the passwords.
secrets_redis() {
    local velum metrics commands
    velum=$(secrets_password_in app/redis_url '^rediss://velum:([^@]*)@')
    metrics=$(secrets_password_in monitoring/redis.json '":"([^"]*)"')
    commands="+ping +get +set +del +zadd +zscore +zmscore +zremrangebyscore +time +evalsha +eval +script|load +select"
    secrets_text redis/users.acl "user default off resetpass nocommands
user velum on #$(secrets_sha256 "$velum") ~velum:* resetchannels -@all $commands
user metrics on #$(secrets_sha256 "$metrics") resetkeys resetchannels -@all +ping +info +client|setname +config|get +latency|latest
user health on nopass resetkeys resetchannels -@all +ping"
    secrets_text app/redis_url "rediss://velum:$velum@$(secrets_address redis 6379)/0"
    secrets_text monitoring/redis.json "{\"rediss://$(secrets_address redis 6379)\":\"$metrics\"}"
}
# secrets_password_in PATH PATTERN    the password that stands there, or a new one
secrets_password_in() {
    if [ -s "$secrets_dir/$1" ] && [[ $(<"$secrets_dir/$1") =~ $2 ]]; then printf '%s' "${BASH_REMATCH[1]}"; else openssl rand -hex 24; fi
}
secrets_sha256() { printf '%s' "$1" | sha256sum | cut -d ' ' -f 1; }

# For the profiles monitoring and logging.
secrets_watching() {
    local name
    secrets_random monitoring/grafana.password
    for name in elastic kibana_system velum_logs; do secrets_random "elasticsearch/$name.password"; done
    secrets_text logging/elasticsearch.conf "@SET elasticsearch_password=$(<"$secrets_dir/elasticsearch/velum_logs.password")"
    secrets_text kibana/kibana.yml "server.host: 0.0.0.0
elasticsearch.hosts: [\"https://elasticsearch:9200\"]
elasticsearch.ssl.certificateAuthorities: [\"$secrets_dir/kibana/ca.pem\"]
elasticsearch.username: kibana_system
elasticsearch.password: $(<"$secrets_dir/elasticsearch/kibana_system.password")
telemetry.optIn: false"
}

secrets_backup() {
    local cluster
    for cluster in "${secrets_clusters[@]}"; do secrets_random "backup/$cluster.pass"; done
}

# ---- owners -----------------------------------------------------------------------------------------------------------------
# FOLDER OWNER, one a line
secrets_owner_list() {
    cat <<-END
	ca 0
	app $uid_velum
	migrate $uid_velum
	smoke $uid_velum
	keyholder $uid_keyholder
	postgres $uid_postgres
	keystore $uid_postgres
	ledger $uid_postgres
	backup 0
	backup/main $uid_postgres
	backup/keystore $uid_postgres
	backup/ledger $uid_postgres
	redis $uid_redis
	nginx $uid_nginx
	monitoring 10006
	logging 10007
	elasticsearch 1000
	kibana 1000
	END
}

secrets_owners() {
    local folder owner
    while read -r folder owner; do
        [ ! -d "$secrets_dir/$folder" ] || give -R "$owner:$owner" "$secrets_dir/$folder"
    done < <(secrets_owner_list)
    find "$secrets_dir" -mindepth 1 -type d -exec chmod 700 {} + -o -type f -exec chmod 600 {} +
}

# ---- check ------------------------------------------------------------------------------------------------------------------
# Every problem, then one failure. Nothing is changed, and nothing of a secret is shown.
secrets_check() {
    need openssl openssl
    local secrets_problems=0
    begin "secrets checked"
    [ -d "$secrets_dir" ] || fail "there is no $secrets_dir" "deploy.sh secrets init RELEASE"
    secrets_check_files
    secrets_check_owners
    secrets_check_keys
    secrets_check_passwords
    secrets_check_certificates
    secrets_check_shared
    [ "$secrets_problems" -eq 0 ] || fail "$secrets_problems problems with the secrets in $secrets_dir" "mend them as said above"
    say "    sound"
}
secrets_problem() {
    printf '    %s: %s\n' "$1" "$2" >&2
    secrets_problems=$((secrets_problems + 1))
}

# Files that must be there. The keyholder's own may lie on another host.
secrets_expected() {
    printf '%s\n' app/{client_secret_pepper.key,blind_index.key,fhe/public.key,fhe/evaluation.key,database_url,keystore_url} \
        app/{ledger_url,redis_url,ca.pem,tls/certificate.pem,tls/key.pem,postgres_client/certificate.pem,postgres_client/key.pem} \
        app/keyholder_client/{certificate,key}.pem migrate/{database_url,keystore_url,ledger_url,ca.pem} \
        migrate/postgres_client/{certificate,key}.pem \
        {postgres,keystore,ledger}/{server.crt,server.key,ca.pem,velum.password,velum_owner.password,velum_metrics.password} \
        monitoring/{ca.pem,postgres_client.pem,postgres_client.key,redis.json,grafana.password} \
        redis/{users.acl,server.crt,server.key,ca.pem} nginx/inner_ca.pem backup/{main,keystore,ledger}.pass
    ! secrets_keyholder_here ||
        printf '%s\n' keyholder/{fhe/secret.key,fhe/public.key,tls/certificate.pem,tls/key.pem,edge_ca.pem}
}

secrets_check_files() {
    local file kind
    while read -r file; do
        if [ ! -e "$secrets_dir/$file" ]; then
            secrets_problem "$file" "is missing: deploy.sh secrets init RELEASE"
        elif [ ! -s "$secrets_dir/$file" ]; then
            secrets_problem "$file" "is empty: remove it, then deploy.sh secrets init RELEASE"
        fi
    done < <(secrets_expected)
    for kind in jwt evidence kek; do
        secrets_has_kind "$kind" || secrets_problem "app/$kind" "holds no key: deploy.sh secrets init RELEASE"
    done
    [ ! -e "$secrets_dir/app/fhe/secret.key" ] ||
        secrets_problem app/fhe/secret.key "belongs to the keyholder alone: mv $secrets_dir/app/fhe/secret.key $secrets_dir/keyholder/fhe/"
    while read -r file; do
        secrets_problem "${file#"$secrets_dir/"}" "these keys made themselves for development: make real ones with deploy.sh secrets init"
    done < <(find "$secrets_dir" -name MADE_FOR_DEVELOPMENT)
}

secrets_check_owners() {
    local folder owner path mode found
    while read -r folder owner; do
        [ -d "$secrets_dir/$folder" ] || continue
        [ "$(id -u)" -eq 0 ] || owner=$(id -u)
        while IFS=' ' read -r found mode path; do
            [ "$found" = "$owner" ] || secrets_problem "${path#"$secrets_dir/"}" "belongs to user $found: chown $owner:$owner $path"
            [ $((8#$mode & 8#077)) -eq 0 ] ||
                secrets_problem "${path#"$secrets_dir/"}" "can be read by others (mode $mode): chmod go= $path"
        done < <(find "$secrets_dir/$folder" -path "$secrets_dir/$folder/*" -path "$secrets_dir/backup/*" -type d -prune -o -not -type l -printf '%U %m %p\n')
    done < <(secrets_owner_list)
}

secrets_check_keys() {
    local path bits
    for path in "$secrets_dir"/app/jwt/*.pem "$secrets_dir"/app/evidence/*.pem; do
        [ -e "$path" ] || continue
        bits=$(openssl rsa -in "$path" -noout -text 2>/dev/null | sed -n 's/^Private-Key: (\([0-9]*\) bit.*/\1/p') || true
        if [ -z "$bits" ]; then
            secrets_problem "${path#"$secrets_dir/"}" "is no RSA private key in PEM: remove it, then deploy.sh secrets init RELEASE"
        elif [ "$bits" -lt 3072 ]; then
            secrets_problem "${path#"$secrets_dir/"}" "has $bits bits, 3072 are expected: velum keys rotate"
        fi
    done
    for path in "$secrets_dir"/app/{client_secret_pepper,blind_index}.key "$secrets_dir"/app/kek/*.key; do
        [ -s "$path" ] || continue
        secrets_is_random_key "$path" ||
            secrets_problem "${path#"$secrets_dir/"}" "is not 32 random bytes in base64 or hex: make it with velum keys generate"
    done
}

# 32 bytes of which at least 16 differ, and not all of them text. Fewer than 16 different ones of 32 random bytes do not happen.
secrets_is_random_key() {
    local text bytes
    text=$(tr -d '\r\n' <"$1")
    if [[ $text =~ ^[0-9A-Fa-f]{64}$ ]]; then
        bytes=${text,,}
    else
        bytes=$(openssl base64 -d -A <<<"$text" 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
    fi
    [ ${#bytes} -eq 64 ] || return 1
    [ "$(fold -w 2 <<<"$bytes" | sort -u | wc -l)" -ge 16 ] && [[ $(fold -w 2 <<<"$bytes") =~ [0189a-f][0-9a-f] ]]
}

secrets_check_passwords() {
    local path
    for path in "$secrets_dir"/{postgres,keystore,ledger,monitoring,elasticsearch}/*.password; do
        [ -s "$path" ] || continue
        secrets_is_strong "$(<"$path")" ||
            secrets_problem "${path#"$secrets_dir/"}" "can be guessed: remove it, then deploy.sh secrets init RELEASE and restart the services"
    done
    for path in "$secrets_dir"/backup/*.pass; do
        [ -s "$path" ] || continue
        secrets_is_strong "$(<"$path")" ||
            secrets_problem "${path#"$secrets_dir/"}" "can be guessed: backups under it are as good as open; docs/operations.md says how it is changed"
    done
    for path in "$secrets_dir"/{app,migrate}/*_url; do
        [ -s "$path" ] || continue
        if [[ ! $(<"$path") =~ ://[a-z_]+:([^@]*)@ ]] || ! secrets_is_strong "${BASH_REMATCH[1]}"; then
            secrets_problem "${path#"$secrets_dir/"}" "has a password that can be guessed, or none: deploy.sh secrets init RELEASE"
        fi
        [[ $(<"$path") == rediss://* || $(<"$path") == *sslmode=verify-full* ]] ||
            secrets_problem "${path#"$secrets_dir/"}" "does not check who answers: it needs rediss:// or sslmode=verify-full"
    done
}

# What everybody tries first does not count towards the length.
secrets_is_strong() {
    local rest=${1,,} word
    for word in password changeme postgres secret letmein qwerty admin velum placeholder example; do rest=${rest//$word/}; done
    [ ${#rest} -ge 24 ] && [ "$(fold -w 1 <<<"$rest" | sort -u | wc -l)" -ge 8 ]
}

secrets_check_certificates() {
    local folder certificate=keyholder/tls/certificate.pem
    secrets_check_authority inner
    secrets_check_authority edges
    secrets_check_pair inner app/tls/certificate.pem app/tls/key.pem
    secrets_check_pair inner redis/server.crt redis/server.key
    for folder in postgres keystore ledger elasticsearch; do secrets_check_pair inner "$folder/server.crt" "$folder/server.key"; done
    secrets_check_pair inner app/postgres_client/certificate.pem app/postgres_client/key.pem
    secrets_check_pair inner migrate/postgres_client/certificate.pem migrate/postgres_client/key.pem
    secrets_check_pair inner monitoring/postgres_client.pem monitoring/postgres_client.key
    secrets_check_pair inner "$certificate" keyholder/tls/key.pem
    [ ! -s "$secrets_dir/$certificate" ] || secrets_carries "$secrets_dir/$certificate" "$(secrets_keyholder_name)" ||
        secrets_problem "$certificate" "is for another name than $(secrets_keyholder_name), as which edges ask for it: deploy.sh secrets init RELEASE, then restart the keyholder"
    secrets_check_pair edges app/keyholder_client/certificate.pem app/keyholder_client/key.pem
}

# Whatever it has issued ends with it at the latest, all at once.
secrets_check_authority() {
    local certificate=$secrets_dir/ca/$1.pem mend="remove ca/$1.pem and ca/$1.key, deploy.sh secrets init RELEASE, then restart every service"
    [ -s "$certificate" ] || return 0
    if ! openssl x509 -in "$certificate" -noout -checkend 0 >/dev/null; then
        secrets_problem "ca/$1.pem" "has expired: $mend"
    elif ! openssl x509 -in "$certificate" -noout -checkend $((secrets_authority_renew_days * 86400)) >/dev/null; then
        secrets_problem "ca/$1.pem" "expires within $secrets_authority_renew_days days, and all that it has issued with it: $mend"
    fi
}

# secrets_check_pair AUTHORITY CERTIFICATE KEY
secrets_check_pair() {
    local authority=$secrets_dir/ca/$1.pem certificate=$secrets_dir/$2 key=$secrets_dir/$3
    { [ -s "$certificate" ] && [ -s "$key" ]; } || return 0
    if [ "$(openssl x509 -in "$certificate" -noout -pubkey 2>/dev/null)" != "$(openssl pkey -in "$key" -pubout 2>/dev/null)" ]; then
        secrets_problem "$2" "does not belong to $3: remove both, then deploy.sh secrets init RELEASE"
    elif ! openssl x509 -in "$certificate" -noout -checkend 0 >/dev/null; then
        secrets_problem "$2" "has expired: deploy.sh secrets init RELEASE, then restart its service"
    elif ! openssl x509 -in "$certificate" -noout -checkend $((30 * 86400)) >/dev/null; then
        secrets_problem "$2" "expires within 30 days: deploy.sh secrets init RELEASE, then restart its service"
    elif [ -e "$authority" ] && ! secrets_chain_holds "$authority" "$certificate"; then
        secrets_problem "$2" "is not of the authority ca/$1.pem: remove it, then deploy.sh secrets init RELEASE"
    fi
}

# What opens one thing must not open another. Certificates and public keys are no secrets.
secrets_check_shared() {
    local hash path before="" before_path=""
    while read -r hash path; do
        [ "$hash" != "$before" ] ||
            secrets_problem "${path#"$secrets_dir/"}" "is the same as ${before_path#"$secrets_dir/"}: one secret for each purpose, make another"
        before=$hash before_path=$path
    done < <(find "$secrets_dir" -path "$secrets_dir/monitoring" -prune -o -type f -size +0 \
        \( -name '*.key' -o -name '*.password' -o -name '*.pass' -o -path '*/jwt/*' -o -path '*/evidence/*' -o -name key.pem \) \
        -not -name public.key -not -name evaluation.key -exec sha256sum {} + | sort)
}
