#!/usr/bin/env bash
# Writes a CycloneDX bill of materials for each lock file: every package with its version, purl and sha256.
#
#   deploy/audit/sbom.sh [FOLDER] [LOCK...]     default: sbom/ and the locks of what is deployed
#
# Equal lock files give equal files, so that a bill can be compared with that of another build.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-sbom}
shift || true
[ $# -gt 0 ] || set -- core semantic serving-cpu
mkdir -p "$folder"
for lock in "$@"; do
  [ -f "deploy/locks/$lock.txt" ] || { echo "sbom: deploy/locks/$lock.txt is missing" >&2 && exit 2; }
  .venv-audit/bin/cyclonedx-py requirements "deploy/locks/$lock.txt" --pyproject pyproject.toml --mc-type application \
    --output-reproducible --output-format JSON --output-file "$folder/locum-$lock.cdx.json" 2>/dev/null
  # What cannot be installed by hash has no place in a bill.
  python3 - "$folder/locum-$lock.cdx.json" "deploy/locks/$lock.txt" <<'PY'
import json, pathlib, re, sys
bill = json.loads(pathlib.Path(sys.argv[1]).read_text())
listed = {(part["name"].lower(), part["version"]) for part in bill["components"]}
locked = {(name.lower(), version) for name, version in re.findall(r"^([\w.-]+)==(\S+)", pathlib.Path(sys.argv[2]).read_text(), re.M)}
unhashed = [part["name"] for part in bill["components"] if not any(ref.get("hashes") for ref in part.get("externalReferences", ()))]
if listed != locked or unhashed:
    sys.exit(f"sbom: {sys.argv[1]} does not match its lock: {sorted(listed ^ locked)[:5]} {unhashed[:5]}")
print(f"{sys.argv[1]}: {len(listed)} packages, all with hashes")
PY
done
