#!/bin/bash
# Elasticsearch, once it answers: passwords of Kibana and Fluent Bit, what Fluent Bit may do, and how long logs are kept.
# May be run again at any time.
#   SECRETS    folder with ca.pem and elastic, kibana_system and velum_logs .password
#   LOG_DAYS   after which a day's index is deleted
set -euo pipefail
secrets=${SECRETS:?} days=${LOG_DAYS:?}
address=${ADDRESS:-https://elasticsearch:9200}

# put METHOD PATH < BODY    no password stands in a list of processes
put() {
    local body
    body=$(cat)
    curl --silent --show-error --fail --max-time 30 --retry 10 --retry-connrefused --cacert "$secrets/ca.pem" \
        --request "$1" --header 'Content-Type: application/json' --data @- --output /dev/null \
        --config <(printf 'user = "elastic:%s"\n' "$(<"$secrets/elastic.password")") "$address$2" <<<"$body"
    echo "setup: $2"
}

put POST /_security/user/kibana_system/_password <<<"{\"password\": \"$(<"$secrets/kibana_system.password")\"}"
put PUT /_security/role/velum_logs <<'END'
{"cluster": ["monitor"], "indices": [{"names": ["velum.*"], "privileges": ["create_index", "create_doc", "auto_configure"]}]}
END
put PUT /_security/user/velum_logs <<<"{\"password\": \"$(<"$secrets/velum_logs.password")\", \"roles\": [\"velum_logs\"]}"
put PUT /_ilm/policy/velum <<<"{\"policy\": {\"phases\": {\"delete\": {\"min_age\": \"${days}d\", \"actions\": {\"delete\": {}}}}}}"
put PUT /_index_template/velum <<'END'
{"index_patterns": ["velum.*"], "template": {"settings": {"number_of_replicas": 0, "index.lifecycle.name": "velum"}}}
END
