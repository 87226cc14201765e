# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# logs: where the lines of each process are.

help_logs() {
    cat <<-'END'
	usage: deploy.sh logs [SERVICE] [--lines N] [--follow] [--deploys]
	Show the last lines of a service, or of the colour that serves.

	  --lines N   how many, 100 unless told
	  --follow    and go on with what comes
	  --deploys   in place of a service: when what was deployed and rolled back
	END
}

command_logs() {
    local service="" lines=100 follow=() known elsewhere
    reach_driver
    while [ $# -gt 0 ]; do
        case $1 in
            --lines)
                lines=${2:-}
                shift
                ;;
            --follow | -f) follow=(-f) ;;
            --deploys) service=deploys ;;
            -*) fail "logs does not know $1" "deploy.sh help logs" ;;
            *) service=$1 ;;
        esac
        shift
    done
    [[ $lines =~ ^[0-9]+$ ]] || fail "--lines takes a number" "deploy.sh logs --lines 100"
    if [ "$service" = deploys ]; then
        [ ! -e "$state_dir/deploys.log" ] || tail --lines "$lines" "${follow[@]}" "$state_dir/deploys.log"
        return
    fi
    service=${service:-$(active_colour)}
    [ -n "$service" ] || fail "nothing serves yet" "name a service: $(driver_services | paste -sd' ')"
    known=$(driver_services)
    if ! grep -qxF -- "$service" <<<"$known"; then
        elsewhere=$(driver_logs_elsewhere "$service")
        [ -z "$elsewhere" ] || fail "$service is not run by deploy.sh here (DRIVER=$(conf DRIVER)), and keeps its log elsewhere" "$elsewhere"
        fail "there is no service $service" "the services are: $(paste -sd' ' <<<"$known")"
    fi
    driver_logs "$service" "$lines" "${follow[@]}"
}
