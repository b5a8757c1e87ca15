# Sourced by the scripts beside it: where the interpreters are, and how to become root.
# shellcheck shell=bash disable=SC2034

ci_directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$ci_directory")
cache=${RPROF_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rprof-ci}

# What the wheel promises. The first come from pyenv or PATH, the others from Debian sid.
host_versions=(3.10 3.11 3.12 3.13)
sid_versions=(3.14 3.15)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env "$@"; fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] || sudo --non-interactive true 2>/dev/null
}

# Whether this is a working CPython of that version, with what a virtual environment needs.
is_python() {
    "$1" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1
}

# The pyenv directories of a version, newest first; "3.13.0t" and the like are other builds.
pyenv_directories() {
    local root=${PYENV_ROOT:-$HOME/.pyenv} directory
    for directory in "$root/versions/$1".*; do
        if [[ ${directory##*/} =~ ^[0-9.]+$ ]]; then echo "$directory"; fi
    done | sort --version-sort --reverse
}

# Prints the interpreter of a version, from pyenv or PATH; fails if there is none.
find_python() {
    local directory
    for directory in $(pyenv_directories "$1"); do
        if is_python "$directory/bin/python" "$1"; then
            echo "$directory/bin/python"
            return
        fi
    done
    # A pyenv shim answers only for the versions that are switched on: is_python asks it.
    if is_python "python$1" "$1"; then command -v "python$1"; else return 1; fi
}
