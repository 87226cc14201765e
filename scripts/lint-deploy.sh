#!/usr/bin/env bash
# What can be said about the files of a deployment without running them: shell scripts, Dockerfiles, the stack, rules and
# dashboard of the monitoring. Tests that run things are in tests/deploy (scripts/deploy-test.sh).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

# Not installed from here: of some of them Debian would start a server.
for program in amtool prometheus-blackbox-exporter promtool shellcheck yamllint; do
    command -v "$program" >/dev/null || fail "$program is missing: run scripts/setup.sh --tests"
done

mapfile -t shell < <(git ls-files --cached --others --exclude-standard -- deploy.sh 'deploy/*.sh' 'images/*.sh' 'nginx/*.sh')
step 5m "shell scripts" shellcheck --external-sources "${shell[@]}"

pinned_venv hadolint scripts/lint-requirements.txt
mapfile -t dockerfiles < <(git ls-files --cached --others --exclude-standard -- 'images/*Dockerfile')
# DL3008 wants a version of each package: within a release Debian changes them for security alone, and we want those changes.
[ ${#dockerfiles[@]} -eq 0 ] || step 2m "Dockerfiles" "$venv/bin/hadolint" --ignore DL3008 "${dockerfiles[@]}"

yaml=(monitoring)
[ ! -e docker-compose.prod.yml ] || yaml+=(docker-compose.prod.yml)
step 2m "YAML" yamllint --strict --config-file scripts/yamllint.yml "${yaml[@]}"
if docker compose version >/dev/null 2>&1; then
    # Any home will do: nothing is read from it.
    step 2m "docker-compose.prod.yml" env VELUM_HOME=/srv/velum docker compose --file docker-compose.prod.yml \
        --profile serve --profile tools --profile monitoring --profile logging config --quiet
else
    say "==> docker-compose.prod.yml: skipped, there is no docker compose (version 2) here"
fi

step 2m "Prometheus' configuration" promtool check config monitoring/prometheus.yml
step 2m "alert rules" promtool check rules --lint=all --lint-fatal monitoring/alerts.yml
step 5m "alert rules, each silent and firing" promtool test rules monitoring/alerts_test.yml
step 2m "Alertmanager's configuration" amtool check-config monitoring/alertmanager.yml
step 2m "the prober's configuration" prometheus-blackbox-exporter --config.file monitoring/blackbox.yml --config.check
