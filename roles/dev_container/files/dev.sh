#!/bin/sh
# Managed by gpufleet.host: changes here are lost on the next run; your own commands go into a file of your own.
# What one does with this workspace, on the host and in its container. Ends with 0: fine, 1: a fault was found, 2: asked
# wrongly, 3: this belongs to the other place, host or container.
set -eu

verb=${1:-help}
[ $# -eq 0 ] || shift
here=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")" && pwd -P)
parts=$here/.devcontainer

say() { printf '%s\n' "$*" >&2; }

# end CODE SENTENCE
end() {
    code=$1
    shift
    say "dev.sh $verb: $*"
    exit "$code"
}

wrong() { end 2 "'$1' is not understood here; ./dev.sh help shows what is"; }
none() { [ $# -eq 0 ] || wrong "$1"; }

# --- what this workspace is -----------------------------------------------------------------------------------------

# Any Python will do to read a file: the environment may be what is broken.
find_python() {
    for python in "$here/.venv/bin/python" /opt/venv/bin/python python3 /opt/uv/venv/bin/python; do
        if "$python" -I -c '' 2>/dev/null; then return; fi
    done
    end 1 "no Python starts here, neither python3 nor that of .venv; apply the role dev_container again"
}

settings() {
    find_python
    project='' groups='' service='' port='' probe='' venv_container=''
    shared='' # one path a line
    found=$("$python" -I -c '
import json, shlex, sys
try:
    with open(sys.argv[1], encoding="utf-8") as file:
        it = json.load(file)
    if it["schema"] != 1:
        raise ValueError("schema " + str(it["schema"]))
    values = {
        "project": it["project"], "groups": " ".join(it["groups"]), "service": it["service"],
        "port": it["jupyter_port"], "probe": it.get("probe") or "", "shared": "\n".join(it["shared_caches"]),
        "venv_container": it["venv"]["container"],
    }
except (OSError, ValueError, KeyError, TypeError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
for name, value in values.items():
    print(name + "=" + shlex.quote(str(value)))
' "$parts/workspace.json" 2>&1) ||
        end 1 "$parts/workspace.json cannot be used ($found); apply the role dev_container again"
    eval "$found"
}

# The image's environment bears a note of what is in it. /.dockerenv would say nothing: a host may be a container too.
in_container() { [ -e "$venv_container/.gpufleet.json" ]; }

look() {
    settings
    venv=$here/.venv
    if in_container; then venv=$venv_container; fi
}

# The environment's programs come first for everything that is started, whether or not it was activated.
activate() {
    look
    [ -x "$venv/bin/python" ] ||
        end 1 "there is no environment at $venv; ./dev.sh sync makes it"
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    unset PYTHONHOME
}

# What writes here is for the owner: root's files in a person's project would stop that person later.
own() {
    owner=$(stat -c %u "$here")
    [ "$owner" = "$(id -u)" ] ||
        end 1 "$here belongs to $(stat -c %U "$here"), and you are $(id -un); run it as $(stat -c %U "$here")"
}

on_host() {
    look
    if in_container; then end 3 "the engine is outside; run this on the host, in the workspace"; fi
}

# program NAME GROUP: ends where the environment lacks it.
program() {
    [ -x "$venv/bin/$1" ] ||
        end 1 "$1 is not in $venv; it comes with the group '$2': add it to dev_container_groups and apply the role, or run ./dev.sh sync"
}

# dotenv NAME: the value as Compose would take it, from the environment or from .env.
dotenv() {
    value=$(printenv "$1") || value=$(sed -n "s/^[[:space:]]*$1=//p" "$here/.env" 2>/dev/null | tail -n 1 | tr -d "\"'")
    printf '%s' "$value"
}

# --- the engine -----------------------------------------------------------------------------------------------------

engine() {
    on_host
    command -v docker >/dev/null 2>&1 ||
        end 1 "docker is not installed here; gpufleet_containers: true and the role docker_engine bring it"
    answer=$(docker version 2>&1) || case $answer in
    *"permission denied"*)
        end 1 "docker refuses $(id -un), because its socket is for root and the group docker, and a member of that group is root on" \
            "this host; ask its administrator, or use 'sudo ./dev.sh $verb' where you are one"
        ;;
    *) end 1 "docker does not answer ($(printf '%s\n' "$answer" | tail -n 1)); systemctl status docker says more" ;;
    esac
}

need_compose() {
    engine
    docker compose version >/dev/null 2>&1 ||
        end 1 "this docker has no compose; the role docker_engine brings it, or the package docker-compose-plugin"
}

compose() { (cd "$here" && docker compose "$@"); }

## up [--build]           start the container and wait until it is healthy; --build after a change of its files or locks
verb_up() {
    build=
    case ${1:-} in --build) build=--build && shift ;; esac
    none "$@"
    need_compose
    # shellcheck disable=SC2086 # one word or none
    if ! compose up --detach --wait $build "$service"; then
        say "Its last words:"
        compose logs --tail 20 "$service" >&2 || true
        end 1 "the container did not become healthy; mend what it says, then run this again"
    fi
    say "It is up: ./dev.sh shell"
}

## down                   stop the container; its volumes stay
verb_down() {
    none "$@"
    need_compose
    compose down
}

## shell [COMMAND...]     a shell in the container, or one command
verb_shell() {
    need_compose
    [ -n "$(compose ps --quiet --status running "$service")" ] ||
        end 1 "the container does not run; ./dev.sh up starts it"
    [ $# -gt 0 ] || set -- bash -l
    # Without a terminal there is none to give.
    if [ -t 0 ] && [ -t 1 ]; then set -- "$service" "$@"; else set -- -T "$service" "$@"; fi
    cd "$here"
    exec docker compose exec "$@"
}

## docker-stats [--follow]  what the containers of this workspace use (all, where none of it runs)
verb_docker_stats() {
    stream=--no-stream
    case ${1:-} in --follow) stream= && shift ;; esac
    none "$@"
    engine
    # By label, as an engine without compose has containers too.
    running=$(docker ps --quiet --filter "label=com.docker.compose.project=$project")
    [ -n "$running" ] || say "No container of this workspace runs (./dev.sh up starts it); these are all of the host's:"
    # shellcheck disable=SC2086 # ids are words
    exec docker stats $stream $running
}

# --- the environment ------------------------------------------------------------------------------------------------

# Sets locks: the files that make the environment, the core's first.
find_locks() {
    directory=$here/$(dotenv DEV_LOCKS)
    [ "$directory" != "$here/" ] || directory=$here/requirements
    locks=
    for name in core $groups; do
        [ -f "$directory/$name.txt" ] ||
            end 1 "there is no $directory/$name.txt; ./dev.sh lock-update makes locks of your own, the role dev_container the host's"
        locks="$locks ${directory#"$here/"}/$name.txt"
    done
}

# uv_sync [ARGUMENTS...]: in the workspace, so that uv reads its settings there.
uv_sync() {
    # shellcheck disable=SC2086 # names of our own, without blanks
    (cd "$here" && uv pip sync --require-hashes --python "$venv/bin/python" "$@" $locks)
}

need_uv() {
    command -v uv >/dev/null 2>&1 || end 1 "uv is not in PATH; the role uv_python installs it as /usr/local/bin/uv"
}

## sync [--check]         make the environment what the locks say; --check only tells (in the container always)
verb_sync() {
    check=
    case ${1:-} in --check) check=yes && shift ;; esac
    none "$@"
    look
    own
    need_uv
    find_locks
    if ! [ -x "$venv/bin/python" ]; then
        if in_container || [ -n "$check" ]; then end 1 "there is no environment at $venv"; fi
        UV_PYTHON_INSTALL_DIR=${UV_PYTHON_INSTALL_DIR:-/opt/uv/python} uv venv --quiet --no-project --python 3.12 "$venv" ||
            end 1 "uv could not make $venv; the role uv_python brings the Python it is made of"
    fi
    if [ -n "$check" ] || ! [ -w "$venv" ]; then
        told=$(uv_sync --dry-run 2>&1) || end 1 "uv could not compare: $(printf '%s\n' "$told" | tail -n 1)"
        case $told in *"Would make no changes"*) say "The environment is what the locks say." && return ;; esac
        printf '%s\n' "$told"
        if in_container; then
            end 1 "the image is not what the locks say; on the host: ./dev.sh up --build"
        fi
        end 1 "the environment is not what the locks say; ./dev.sh sync makes it so"
    fi
    uv_sync || end 1 "uv could not make the environment what the locks say; its words stand above"
}

## lock-update [--check]  newest versions that pyproject.toml allows, into locks/; --check only tells
verb_lock_update() {
    check=
    case ${1:-} in --check) check=yes && shift ;; esac
    none "$@"
    activate
    own
    need_uv
    [ -f "$here/pyproject.toml" ] || end 1 "there is no $here/pyproject.toml, which says what may be updated"
    cd "$here"
    if [ -n "$check" ]; then
        uv lock --upgrade --dry-run --python "$venv/bin/python" || end 1 "uv found no set that fits; its words stand above"
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    [ ! -f uv.lock ] || cp -p uv.lock "$work/before"
    uv lock --upgrade --python "$venv/bin/python" ||
        end 1 "uv found no set that fits, and nothing was changed; its words stand above"
    mkdir "$work/new"
    for name in core $groups; do
        # Without index addresses, as the host's own locks are.
        set -- --quiet --frozen --no-emit-project --no-annotate --no-header --python "$venv/bin/python"
        [ "$name" = core ] || set -- "$@" --extra "$name"
        if ! uv export "$@" --output-file "$work/new/$name.txt" >/dev/null; then
            if [ -f "$work/before" ]; then cp -p "$work/before" uv.lock; else rm -f uv.lock; fi
            end 1 "pyproject.toml has no group '$name', which this workspace is made of; nothing was changed"
        fi
    done
    # shellcheck disable=SC2086 # names of groups are words
    "$venv/bin/python" -I "$parts/lock_files.py" "$here" "$work/new" "$project" $groups
    if [ -w "$venv" ]; then
        export DEV_LOCKS=locks
        find_locks
        uv_sync || end 1 "locks/ is written, and the environment could not be made from it; ./dev.sh sync tries again"
    fi
    say "The container gets them by './dev.sh up --build', on the host. Back to the host's own locks: take DEV_LOCKS and DEV_IMAGE"
    say "out of .env, then './dev.sh sync' and './dev.sh up'."
}

## optimize               compile the environment, drop what uv's cache has no use for; shared caches are left alone
verb_optimize() {
    none "$@"
    activate
    own
    if [ -w "$venv" ]; then
        say "Compiling $venv"
        # A package may carry files for another Python; they are none of its modules.
        "$venv/bin/python" -W ignore -m compileall -q -j 0 "$venv/lib" >/dev/null || say "Some files are for another Python, and stay as they are."
    else
        say "$venv was compiled when it was made."
    fi
    need_uv
    cache=$(uv cache dir)
    if ! [ -d "$cache" ]; then
        say "uv has no cache at $cache yet."
    elif is_shared "$cache"; then
        say "uv's cache at $cache is shared: it is not yours to prune."
    else
        uv cache prune
    fi
}

# Shared is what the host lists, what another account owns, and what the group may write.
is_shared() {
    [ "$(stat -L -c %u "$1")" = "$(id -u)" ] || return 0
    case $(stat -L -c %A "$1") in ?????w*) return 0 ;; esac
    real=$(readlink -f "$1")
    while read -r path; do
        [ -e "$path" ] || continue
        case $real/ in "$(readlink -f "$path")"/*) return 0 ;; esac
    done <<END
$shared
END
    return 1
}

## clean                  remove the project's own caches: Python's, pytest's, mypy's, ruff's
verb_clean() {
    none "$@"
    own
    list=$(mktemp)
    trap 'rm -f "$list"' EXIT
    # Follows no link and leaves the file system: data and caches of others are behind both.
    find "$here" -xdev \( -path "$here/.venv" -o -path "$here/.git" -o -path "$here/data" \) -prune -o -type d \
        \( -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache \) -prune -print0 >"$list"
    xargs -0 -r rm -rf -- <"$list"
    say "$(tr -cd '\0' <"$list" | wc -c) cache directories removed."
}

# --- the code -------------------------------------------------------------------------------------------------------

# script_of [SCRIPT...]: ends unless there is one to run.
script_of() {
    [ $# -gt 0 ] || end 2 "name a script: ./dev.sh $verb script.py [arguments]"
    [ -f "$1" ] || end 2 "there is no file $1"
}

# result_of SCRIPT SUFFIX: sets result. The directory keeps itself out of git.
result_of() {
    mkdir -p "$here/.profile"
    [ -f "$here/.profile/.gitignore" ] || echo '*' >"$here/.profile/.gitignore"
    name=${1##*/}
    result=$here/.profile/${name%.py}-$(date -u +%Y%m%dT%H%M%SZ)-$$.$2
}

# lend PACKAGE: where the environment lacks it, uv brings it for one run and without a change of the project. Sets lent, what
# to put before a command.
lend() {
    lent=
    if [ -x "$venv/bin/$1" ]; then return; fi
    need_uv
    say "$1 is not in the environment (group 'profiling'); uv brings it for this run."
    lent="uv run --quiet --no-project --with $1 --"
}

## profile SCRIPT...      where the time goes: a trace of the script in .profile/
verb_profile() {
    script_of "$@"
    activate
    own
    result_of "$1" json
    lend viztracer
    code=0
    # shellcheck disable=SC2086 # words of our own
    $lent viztracer --quiet --output_file "$result" -- "$@" || code=$?
    if [ -f "$result" ]; then say "To look at it: ${lent:+$lent }vizviewer '$result'"; fi
    [ "$code" -eq 0 ] || end "$code" "$1 ended with $code"
}

## memory-profile SCRIPT...  where the memory goes
verb_memory_profile() {
    script_of "$@"
    activate
    own
    result_of "$1" bin
    lend memray
    code=0
    # shellcheck disable=SC2086 # words of our own
    $lent python -m memray run --quiet --output "$result" "$@" || code=$?
    if [ -f "$result" ]; then
        # shellcheck disable=SC2086
        $lent python -m memray stats "$result"
        say "For a page of it: ${lent:+$lent }python -m memray flamegraph '$result'"
    fi
    [ "$code" -eq 0 ] || end "$code" "$1 ended with $code"
}

# step NAME COMMAND...: runs it and remembers the outcome; the next one runs in any case.
step() {
    title=$1
    shift
    say "== $title"
    code=0
    "$@" || code=$?
    # pytest's own: there was no test.
    if [ "$title" = pytest ] && [ "$code" -eq 5 ]; then code=0; fi
    if [ "$code" -ne 0 ]; then failed="$failed $title"; fi
}

## all-checks             ruff format --check, ruff check, mypy and pytest; all of them, then the verdict
verb_all_checks() {
    none "$@"
    activate
    own
    for name in ruff mypy pytest; do program "$name" dev; done
    cd "$here"
    failed=
    # Neither is this project's code; and in a container data is a directory, not a link.
    step "ruff format" ruff format --check --extend-exclude data,.devcontainer .
    step "ruff check" ruff check --extend-exclude data,.devcontainer .
    set --
    for name in src tests; do
        if [ -n "$(find "$name" -name '*.py' -print 2>/dev/null | head -n 1)" ]; then set -- "$@" "$name"; fi
    done
    if [ $# -gt 0 ]; then step mypy mypy "$@"; fi
    step pytest pytest
    [ -z "$failed" ] || end 1 "failed:$failed"
    say "All checks passed."
}

## test [--all] [...]     the tests that a change since the last commit touches, and those that failed; the rest goes to pytest
verb_test() {
    activate
    own
    program pytest dev
    cd "$here"
    case ${1:-} in
    --all) shift && exec pytest "$@" ;;
    esac
    list=$(mktemp)
    trap 'rm -f "$list"' EXIT
    "$venv/bin/python" -I "$parts/changed_tests.py" "$here" >"$list" || end 1 "the changes cannot be read; --all runs every test"
    if ! [ -s "$list" ]; then
        say "No test is touched by what was changed; --all runs every one."
        return
    fi
    if [ "$(cat "$list")" != . ]; then
        while read -r name; do set -- "$@" "$name"; done <"$list"
    fi
    code=0
    pytest "$@" || code=$?
    case $code in 0 | 5) ;; *) exit 1 ;; esac
}

## jupyter [--port N]     Jupyter Lab on this machine's loopback, with a token in a file that only you can read
verb_jupyter() {
    activate
    own
    case ${1:-} in
    --port) [ $# -gt 1 ] || wrong --port && port=$2 && shift 2 ;;
    esac
    # Anything more could listen elsewhere, or carry a secret that every user of the host sees in the list of processes.
    none "$@"
    program jupyter-lab notebook
    token_file
    say "Token: cat $token"
    say "From another machine: ssh -L $port:127.0.0.1:$port $(uname -n), then http://127.0.0.1:$port/lab"
    unset JUPYTER_TOKEN
    export JUPYTER_TOKEN_FILE="$token"
    exec jupyter-lab --no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port="$port" --ServerApp.root_dir="$here"
}

# Sets token: the file, made anew where others could have read it.
token_file() {
    token=${XDG_STATE_HOME:-$HOME/.local/state}/gpufleet/jupyter-$project.token
    if [ -s "$token" ] && [ "$(stat -c %a "$token")" = 600 ]; then return; fi
    (
        umask 077
        mkdir -p "${token%/*}"
        rm -f "$token"
        # Without a newline: Jupyter would take it for a part of the token.
        "$venv/bin/python" -I -c 'import secrets; print(secrets.token_urlsafe(32), end="")' >"$token"
    )
}

# --- the whole ------------------------------------------------------------------------------------------------------

## verify-setup [--json]  is everything here as it should be? PASS, WARN, FAIL or SKIP for each; 1 where something fails
verb_verify_setup() {
    case "$*" in '' | --json) ;; *) wrong "$*" ;; esac
    look
    place=host
    if in_container; then place=container; fi
    # A broken environment is a finding and no reason to stop.
    if "$venv/bin/python" -I -c '' 2>/dev/null; then
        export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
        python=$venv/bin/python
    fi
    exec "$python" -I "$parts/verify_setup.py" --workspace "$here" --place "$place" --venv "$venv" "$@"
}

## benchmark [...]        measure this machine by the collection's probe (--help: its options); ends as the probe does
verb_benchmark() {
    activate
    # In the container the host's directory of it is here, wherever it is on the host.
    [ -f "$probe" ] || probe=/opt/gpufleet/${probe##*/}
    [ -f "$probe" ] ||
        end 3 "the probe is not here (${probe:-none is named in workspace.json}); the role torch_probe puts it on the host"
    exec "$venv/bin/python" "$probe" "$@"
}

## help                   this page
verb_help() {
    echo "Usage: ./dev.sh VERB [ARGUMENTS], in any directory, on the host or in the container"
    echo
    sed -n 's/^## /  /p' "$here/dev.sh"
}

case $verb in
-h | --help) verb=help ;;
*[!a-z-]*) end 2 "there is no such verb; ./dev.sh help lists them" ;;
esac
grep -Eq "^## $verb( |$)" "$here/dev.sh" || end 2 "there is no such verb; ./dev.sh help lists them"
"verb_$(printf %s "$verb" | tr - _)" "$@"
