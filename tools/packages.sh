# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Sourced: what scripts share that get something from apt or pip. `$log` is a file.

die() {
    echo "vitpool: $*" >&2
    exit 1
}

# step TEXT COMMAND...: say what happens, do it quietly, show the log if it fails.
step() {
    echo "== $1"
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "this failed: $*"
    fi
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        die "install these (Debian's names; BLIS is blis-devel on Fedora, blis on" \
            "conda), then run make again: $*"
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=env
    elif sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
        as_root=sudo
    else
        die "as root, run: apt-get install $*"
    fi
    step "apt-get update" $as_root apt-get update
    step "apt-get install $*" $as_root DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"
}
