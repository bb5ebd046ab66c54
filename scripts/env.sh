#!/usr/bin/env bash
# Sourced by the scripts beside it, which set -euo pipefail. Gives them:
#   ROOT              the project's folder
#   set_up run|dev    makes or completes .venv; dev holds all of run
#   set_up NAME       makes .venv-NAME from tests/NAME.lock: openai1 (the 1.x SDK), clients (agents, LangChain),
#                     llama (a real llama.cpp server, built here)
#   set_up_node       makes .venv-node, with the Node SDK; false, with a line that says why, where that cannot be
#   set_up_redis      exports UNIGATE_REDIS_SERVER, from PATH or from .venv-redis; false, with a line, where there is none
#   find_postgres     exports UNIGATE_POSTGRES_BIN, the folder of initdb and postgres; false, with a line, likewise
# Written for bash 3.2 too, which is what macOS has.

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Everything that a finished set-up depends on. cksum, because it is the one hash that every system has.
_fingerprint() { # PYTHON FILE...
    local python=$1
    shift
    { printf '%s\n' "$python" "$ROOT"; cat -- "$@"; } | cksum
}

# The quick way: no Python is started, so that a second start costs a few milliseconds.
_is_ready() { # VENV NAME FILE...
    local venv=$1 name=$2 python='' done_for=''
    shift 2
    [ -x "$venv/bin/python" ] && [ ! -e "$venv/.unigate-unfinished" ] || return 1
    { read -r python < "$venv/.unigate-python" && read -r done_for < "$venv/.unigate-$name"; } 2>/dev/null || return 1
    [ -z "${UNIGATE_PYTHON:-}" ] || [ "$UNIGATE_PYTHON" = "$python" ] || return 1
    [ "$done_for" = "$(_fingerprint "$python" "$@")" ]
}

# Prints the interpreter's own path. Candidates are run, as a pyenv shim may exist and still fail.
_real_python() { # CANDIDATE
    "$1" -I -c 'import sys; sys.exit(1) if sys.version_info < (3, 12) else print(sys.executable)' 2>/dev/null
}

_find_python() {
    local candidate
    if [ -n "${UNIGATE_PYTHON:-}" ]; then
        if _real_python "$UNIGATE_PYTHON" >/dev/null; then
            printf '%s\n' "$UNIGATE_PYTHON"
            return 0
        fi
        echo "UNIGATE_PYTHON is \"$UNIGATE_PYTHON\", which is not a working Python 3.12 or later." >&2
        return 1
    fi
    for candidate in python3.12 python3.13 python3.14 python3 python \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[2-9]*/bin/python3; do
        _real_python "$candidate" && return 0
    done
    # --system: not the .venv that is about to be made
    if candidate=$(UV_PYTHON_DOWNLOADS=never uv python find --system '>=3.12' 2>/dev/null); then
        _real_python "$candidate" && return 0
    fi
    cat >&2 <<'TEXT'
unigate needs Python 3.12 or later, and none was found. Any one of these gives you one:
  Debian, Ubuntu:  sudo apt install python3.12 python3.12-venv   (or a later python3.x)
  macOS:           brew install python@3.12
  uv:              uv python install 3.12
  pyenv:           pyenv install 3.12
If it is there but not on PATH, set UNIGATE_PYTHON to its full path.
TEXT
    return 1
}

_make_venv() { # PYTHON VENV
    local python=$1 venv=$2 problem version
    problem=$("$python" -I -m venv "$venv" 2>&1) && return 0
    # Debian and Ubuntu pack ensurepip apart. uv does without it, and so does a pip outside of the venv.
    uv venv -q --allow-existing --python "$python" "$venv" 2>/dev/null && return 0
    if "$python" -I -m pip --version >/dev/null 2>&1 && "$python" -I -m venv --without-pip "$venv" 2>/dev/null; then
        return 0
    fi
    printf '%s\n' "$problem" >&2
    version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "This Python cannot make a virtual environment. On Debian and Ubuntu: sudo apt install python$version-venv" >&2
    return 1
}

_install() { # PYTHON VENV ARGUMENT...
    local pip=$2/bin/python venv_python=$2/bin/python settings said
    "$pip" -I -c 'import pip' 2>/dev/null || pip=$1
    shift 2
    settings=$("$pip" -I -m pip config list 2>/dev/null) || settings=''
    case $settings in
        *index* | *find-links* | *proxy* | *cert*) ;; # uv is faster, but would not see these
        *)
            if command -v uv >/dev/null; then
                uv pip install -q --python "$venv_python" "$@" && return 0
                echo "uv could not do it; trying pip." >&2
            fi
            ;;
    esac
    # Shown only on a failure: its warnings then tell the cause, and are noise otherwise.
    said=$("$pip" -I -m pip --python "$venv_python" install -q --disable-pip-version-check "$@" 2>&1) && return 0
    printf '%s\n' "$said" >&2
    return 1
}

# May the venv be completed, or has it to be made anew?
_is_usable() { # VENV
    local python='' root=''
    [ ! -e "$1/.unigate-unfinished" ] && _real_python "$1/bin/python" >/dev/null || return 1
    [ -e "$1/.unigate-python" ] || return 0 # made by hand: welcome
    { read -r python && read -r root; } < "$1/.unigate-python"
    # The scripts in a venv hold its path, so one that was moved is of no use.
    [ "$root" = "$ROOT" ] || return 1
    [ -z "${UNIGATE_PYTHON:-}" ] || [ "$UNIGATE_PYTHON" = "$python" ]
}

# One set-up of a venv at a time. The lock belongs to descriptor 9, which this shell keeps open, so it outlives the
# Python that took it; macOS has no flock command. A pip that lost its shell still holds it, rightly.
_lock() { # PYTHON VENV
    exec 9> "$2-lock" || return 1
    "$1" -I -c 'if 1:
        import fcntl, sys
        try:
            fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another set-up to finish…", file=sys.stderr)
            fcntl.flock(9, fcntl.LOCK_EX)'
}

_complete() { # VENV NAME LOCK FILE...
    local venv=$1 name=$2 lock=$3 python was_whole='' takes='about a minute'
    shift 2
    python=$(_find_python) && _lock "$python" "$venv" || return 1
    if _is_ready "$venv" "$name" "$@"; then # the other one did the work
        exec 9>&-
        return 0
    fi

    trap 'exit 130' INT TERM # pip ends an interrupt as a failure, and we would go on
    [ "$name" != llama ] || takes='it builds llama.cpp: about ten minutes on two cores'
    echo "Setting up (once, $takes)…" >&2
    rm -rf -- "$venv-discarded"
    if [ -e "$venv" ] && ! _is_usable "$venv"; then
        mv -- "$venv" "$venv-discarded" || return 1 # renamed first: a removal that is cut short leaves nothing half there
        rm -rf -- "$venv-discarded"
    fi
    [ ! -e "$venv" ] || was_whole=yes
    mkdir -p -- "$venv" && : > "$venv/.unigate-unfinished" || return 1
    [ -n "$was_whole" ] || _make_venv "$python" "$venv" || return 1
    [ -e "$venv/.unigate-python" ] || printf '%s\n' "$python" "$ROOT" > "$venv/.unigate-python"
    read -r python < "$venv/.unigate-python"

    if ! { _install "$python" "$venv" -r "$lock" &&
        { [ "$venv" != "$ROOT/.venv" ] || _install "$python" "$venv" --no-deps --no-build-isolation -e "$ROOT"; }; }; then
        echo "Set-up failed: the packages could not be fetched or installed; the message above says why." \
            "Check the network, proxy and package index settings, then run this again." >&2
        # pip fetches everything before it changes anything: a venv that worked still does.
        [ -z "$was_whole" ] || rm -f -- "$venv/.unigate-unfinished"
        return 1
    fi
    _fingerprint "$python" "$@" > "$venv/.unigate-$name"
    if [ "$name" = dev ]; then # it holds all that run needs
        _fingerprint "$python" "$ROOT/requirements.lock" "$ROOT/pyproject.toml" > "$venv/.unigate-run"
    fi
    rm -f -- "$venv/.unigate-unfinished"
    trap - INT TERM
    exec 9>&-
}

set_up() { # run|dev|NAME
    local venv=$ROOT/.venv
    case $1 in
        run) set -- run "$ROOT/requirements.lock" "$ROOT/pyproject.toml" ;;
        dev) set -- dev "$ROOT/requirements-dev.lock" "$ROOT/requirements.lock" "$ROOT/pyproject.toml" ;;
        *) venv=$ROOT/.venv-$1 && set -- "$1" "$ROOT/tests/$1.lock" ;;
    esac
    _is_ready "$venv" "$@" || _complete "$venv" "$@" || exit 1
}

set_up_node() {
    local home=$ROOT/.venv-node pins=$ROOT/tests/sdk/node said version='' python wanted done_for=''
    version=$(node --version 2>/dev/null) || version=''
    case $version in
        '' | v[0-9].* | v1[0-9].*)
            echo "The tests of the Node SDK are left out: there is no Node 20 or later." >&2
            return 1
            ;;
    esac
    wanted=$(_fingerprint "$version" "$pins/package.json" "$pins/package-lock.json")
    { read -r done_for < "$home/.unigate-node"; } 2>/dev/null && [ "$done_for" = "$wanted" ] && return 0

    python=$(_find_python) && _lock "$python" "$home" || exit 1
    { read -r done_for < "$home/.unigate-node"; } 2>/dev/null && [ "$done_for" = "$wanted" ] && return 0
    rm -rf -- "$home" && mkdir -p -- "$home" && cp -- "$pins/package.json" "$pins/package-lock.json" "$home" || exit 1
    if ! said=$(cd -- "$home" && npm ci --ignore-scripts --no-audit --no-fund 2>&1); then
        printf '%s\n' "$said" >&2
        echo "The tests of the Node SDK are left out: npm could not install it; the message above says why." >&2
        exec 9>&-
        return 1
    fi
    printf '%s\n' "$wanted" > "$home/.unigate-node"
    exec 9>&-
}

set_up_redis() {
    local name
    export UNIGATE_REDIS_SERVER=''
    for name in redis-server valkey-server; do
        if UNIGATE_REDIS_SERVER=$(command -v "$name"); then
            return 0
        fi
    done
    # A shell of its own: a set-up that fails ends it.
    if (set_up redis) && [ -x "$ROOT/.venv-redis/bin/redis-server" ]; then
        UNIGATE_REDIS_SERVER=$ROOT/.venv-redis/bin/redis-server
        return 0
    fi
    echo "The tests of limits in Redis are left out: there is no redis-server or valkey-server, and none to install." >&2
    return 1
}

find_postgres() {
    local found folder
    found=$(command -v initdb) || found=''
    export UNIGATE_POSTGRES_BIN=''
    for folder in "${found%/*}" /usr/lib/postgresql/*/bin /{opt/homebrew,usr/local}/opt/postgresql*/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            UNIGATE_POSTGRES_BIN=$folder
            return 0
        fi
    done
    echo "The tests of a ledger in PostgreSQL are left out: there is no PostgreSQL server (initdb, postgres)." >&2
    return 1
}
