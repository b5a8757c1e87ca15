# Sourced by `run` and `dev`, after interpreters.sh: the tools, and the checks that both make.
# shellcheck shell=bash disable=SC2154

# The newest of the host's interpreters runs the tools and builds the wheel.
base_python=
for version in "${host_versions[@]}"; do
    base_python=$(find_python "$version" || echo "$base_python")
done
if [ -z "$base_python" ]; then
    echo "no CPython of ${host_versions[*]} with venv, in pyenv or on PATH" >&2
    exit 1
fi

# make_environment DIRECTORY REQUIREMENT...: a virtual environment, made anew when what it is to
# have has changed.
make_environment() {
    local directory=$1 stamp
    shift
    stamp=$(printf '%s\n' "$base_python" "$@" | sha256sum)
    exec 9>"$directory.lock"
    flock 9
    if [ "$(cat "$directory/stamp" 2>/dev/null)" != "$stamp" ] || ! "$directory/bin/python" -c ''; then
        rm -rf "$directory"
        "$base_python" -m venv "$directory"
        "$directory/bin/python" -m pip install --quiet "$@" 9>&-
        echo "$stamp" >"$directory/stamp"
    fi
    exec 9>&-
}

# requirements EXTRA...: what pyproject.toml asks for, one a line.
requirements() {
    "$base_python" "$ci_directory/requirements.py" "$repository/pyproject.toml" "$@"
}

tools=$cache/tools
make_tools() {
    local wanted
    mapfile -t wanted < <(requirements lint test)
    make_environment "$tools" "${wanted[@]}" abi3audit auditwheel
}

rust_lint() {
    # cargo and maturin set different variables for pyo3's build: in one directory each would undo
    # what the other built.
    export CARGO_TARGET_DIR=$cache/target/cargo PYO3_PYTHON=$base_python
    cargo fmt -- --check
    cargo clippy --locked --quiet --all-targets -- --deny warnings
    cargo clippy --locked --quiet --all-targets --features python -- --deny warnings
}

python_lint() {
    "$tools/bin/ruff" check .
    "$tools/bin/ruff" format --check .
    "$tools/bin/mypy"
    "$tools/bin/mypy" --strict tests/unit/test_layers.py tests/cpython/compare.py \
        tests/fixtures/record.py tests/fixtures/runs/generate.py
}

# The tables of the reference are those of the code; the site has no link that leads nowhere.
site=$cache/site
build_site() { # where to
    local wanted
    mapfile -t wanted < <(requirements docs)
    make_environment "$site" "${wanted[@]}"
    # Without --quiet: warnings that are not shown do not fail it.
    NO_MKDOCS_2_WARNING=1 "$site/bin/mkdocs" build --strict --site-dir "$1"
}
