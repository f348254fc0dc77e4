#!/usr/bin/env bash
# Runs docker-compose.yml for real, as a project of its own with its own volumes, and takes it down again. A posted
# answer must become a delivered page whose link acknowledges the ticket, also when scoring was dead meanwhile, and
# Prometheus must see every service. Needs docker compose, curl and python3; the ports of the compose file must be free.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

make env
KEY=$(sed -n 's/^FIILIS_KEY=//p' .env)
INGEST=http://127.0.0.1:8001 TICKETING=http://127.0.0.1:8003 MAILPIT=http://127.0.0.1:8025 PROMETHEUS=http://127.0.0.1:9090

compose() { docker compose --project-name fiilis-try "$@"; }
say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() { say "FAIL: $*" >&2; exit 1; }
http() { curl --noproxy '*' --silent --show-error --fail --max-time 10 "$@"; }
api() { http --header "Authorization: Bearer $KEY" "$@"; }
read_json() { python3 -c "import json, sys; d = json.load(sys.stdin); $1"; }

finish() {
  local code=$?
  trap - EXIT
  if [ "$code" != 0 ]; then
    compose ps -a || true
    compose logs --tail=40 || true
  fi
  compose down --volumes --remove-orphans --timeout 25 >/dev/null 2>&1 || say "taking it down failed" >&2
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

eventually() { # eventually SECONDS WHAT COMMAND...: until it succeeds
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: not in time"
    sleep 0.5
  done
  say "$what"
}

ready() { http --output /dev/null "http://127.0.0.1:$1/readyz"; }

post() { # post TOUCHPOINT COMMENT: a mood of 1 that is accepted
  local answer
  answer=$(api --header 'Content-Type: application/json' "$INGEST/v1/feedback" --data \
    "{\"customer\": \"acme\", \"kind\": \"mood\", \"score\": 1, \"touchpoint\": \"$1\", \"comment\": \"$2\"}")
  read_json 'sys.exit(d["accepted"] != 1)' <<<"$answer" || fail "not accepted: $answer"
  say "mood 1 about $1 accepted"
}

link=''
mailed() { # mailed COMMENT: somebody got a mail that quotes it; its link is in $link
  local id text
  for id in $(http "$MAILPIT/api/v1/messages" | read_json 'print(*(m["ID"] for m in d["messages"]))'); do
    text=$(http "$MAILPIT/api/v1/message/$id" | read_json 'print(d["Text"])')
    if grep --quiet --fixed-strings "$1" <<<"$text"; then
      link=$(grep --only-matching --max-count=1 'http://127\.0\.0\.1:8004/a/[^[:space:]]*' <<<"$text")
      return
    fi
  done
  return 1
}

ticket_is() { # ticket_is TOUCHPOINT STATE
  api "$TICKETING/v1/tickets?customer=acme" |
    read_json "sys.exit([t['state'] for t in d['items'] if t['touchpoint'] == '$1'] != ['$2'])"
}

pages_until_acknowledged() { # pages_until_acknowledged TOUCHPOINT COMMENT
  eventually 60 "the page about $1 was delivered" mailed "$2"
  ticket_is "$1" open || fail "the ticket about $1 is not open before anybody answered"
  http --output /dev/null "$link" && ticket_is "$1" open || fail "looking at the link must not acknowledge"
  http --output /dev/null --request POST "$link" || fail "the link of the page does not acknowledge"
  eventually 30 "its link acknowledged the ticket" ticket_is "$1" acknowledged
}

all_scraped() {
  http "$PROMETHEUS/api/v1/targets?state=active" |
    read_json 'sys.exit([t["health"] for t in d["data"]["activeTargets"]] != ["up"] * 4)'
}

compose up --detach --build
say 'started'
for port in 8001 8002 8003 8004; do eventually 120 "port $port is ready" ready "$port"; done

post support 'nobody answers the phone'
pages_until_acknowledged support 'nobody answers the phone'

compose kill scoring
post billing 'charged twice while scoring was dead'
sleep 3
! mailed 'charged twice' || fail 'a page without scoring'
compose up --detach scoring
pages_until_acknowledged billing 'charged twice while scoring was dead'

eventually 60 'Prometheus sees all four services' all_scraped
echo PASS
