#!/usr/bin/env bash
# Starts a gateway between two fake backends and lets schemathesis attack it as docs/openapi.json describes it.
#
#   deploy/audit/fuzz.sh [SECONDS]     default: 120
#
# Exit codes: schemathesis's own: 0 nothing found, 1 findings; 2 nothing was tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-120}
scratch=$(mktemp -d)
started=()
end() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$scratch"
}
trap end EXIT

# address NAME PATTERN: what a child says about where it listens.
address() {
  for _ in $(seq 300); do
    if grep -qE "$2" "$scratch/$1"; then
      grep -oE 'http://[^ ]+' "$scratch/$1" | head -n 1
      return
    fi
    sleep 0.2
  done
  echo "fuzz: $1 did not start:" >&2
  cat "$scratch/$1" >&2
  exit 2
}

for name in student teacher; do
  .venv/bin/python -m loadtests.fake_backend --port 0 --model "$name" >"$scratch/$name" 2>&1 &
  started+=($!)
done
student=$(address student ready)
teacher=$(address teacher ready)
cat >"$scratch/locum.toml" <<TOML
[server]
port = 0
[student]
base_url = "$student"
[teacher]
base_url = "$teacher"
[embeddings]
base_url = "$student"
model = "student"
[log]
dir = "$scratch/traffic"
[admin]
dir = "$scratch/admin"
TOML
.venv/bin/locum serve -c "$scratch/locum.toml" --log-level warning >"$scratch/gateway" 2>&1 &
started+=($!)
gateway=$(address gateway 'listens on')

# A body that the document allows may still be refused by the model that answers: that is no finding.
status=0
.venv-audit/bin/schemathesis run docs/openapi.json --url "$gateway" --max-time "$seconds" --continue-on-failure \
  --checks not_a_server_error,response_schema_conformance,content_type_conformance,unsupported_method \
  --request-timeout 20 --no-color || status=$?
if grep -q Traceback "$scratch/gateway"; then
  echo "fuzz: the gateway's log has a traceback:" >&2
  cat "$scratch/gateway" >&2
  status=1
fi
exit "$status"
