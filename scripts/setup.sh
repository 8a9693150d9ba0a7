#!/usr/bin/env bash
# Installs atenea from this checkout on Debian or Ubuntu, or in a container of theirs. Run again, it upgrades.
#
#   sudo scripts/setup.sh [--hallo2 | --offline] [--models [--yes]] [--volume FOLDER] [--no-start]
#   sudo scripts/setup.sh --uninstall [--purge]
#
#   --hallo2         also install what makes photographs speak, with torch; left out where there is no NVIDIA driver
#   --models         also fetch the models of Hallo2, after showing their licences
#   --yes            accept these licences without being asked
#   --offline        the service gets neither GPU nor network: enough for speech by espeak and pictures by preview
#   --volume FOLDER  in a container: keep everything in FOLDER, which outlives it
#   --no-start       neither enable nor start the service
#   --uninstall      stop the service, and remove it and the program; configuration and data stay
#   --purge          with --uninstall: remove these too, and the user
#
# PYTHON=PROGRAM names another Python than python3. docs/setup.md has the rest.
set -euo pipefail
umask 022
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
PROGRAM=/opt/atenea
VENV=$PROGRAM/venv
DOCS=$PROGRAM/docs
COMMAND=/usr/local/bin/atenea
CONFIG=/etc/atenea
STATE=/var/lib/atenea
CACHE=/var/cache/atenea
UNIT=/etc/systemd/system/atenea.service
OFFLINE=/etc/systemd/system/atenea.service.d/cpu-only.conf
SYSUSERS=/etc/sysusers.d/atenea.conf
TMPFILES=/etc/tmpfiles.d/atenea.conf

hallo2='' models='' accept='' offline='' volume='' start=yes uninstall='' purge=''
as_atenea=(runuser -u atenea --)
changed=''  # something that the service has to be restarted for
stopped=''  # it ran, and waits for the end of the upgrade
scratch=''

say() { printf '%s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
misused() {
    printf 'setup: %s; see --help\n' "$*" >&2
    exit 2
}
# Runs a command, and shows what it says only if it fails.
quietly() {
    "$@" >"$scratch/said" 2>&1 || {
        cat "$scratch/said" >&2
        return 1
    }
}
have() { command -v "$1" >/dev/null; }
has_systemd() { [ -d /run/systemd/system ]; }
has_nvidia() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
                exit 0
                ;;
            --hallo2) hallo2=yes ;;
            --models) models=yes ;;
            --yes) accept=--yes ;;
            --offline) offline=yes ;;
            --volume)
                volume=${2-}
                [ "${volume#/}" != "$volume" ] || misused '--volume needs the absolute path of a folder'
                shift
                ;;
            --no-start) start='' ;;
            --uninstall) uninstall=yes ;;
            --purge) purge=yes ;;
            *) misused "$1: there is no such option" ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ -n "$uninstall" ] || misused '--purge goes with --uninstall'
    [ -z "$offline" ] || [ -z "$hallo2" ] || misused '--hallo2 needs the GPU that --offline takes away'
    [ -z "$accept" ] || [ -n "$models" ] || misused '--yes goes with --models'
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail 'only root may install; run it with sudo'
    have apt-get || fail 'this is neither Debian nor Ubuntu; README.md says how to run atenea from a checkout'
    if [ -n "$volume" ] && has_systemd; then
        fail '--volume is for containers without systemd; leave it out'
    fi
    if [ -n "$offline" ] && ! has_systemd; then
        fail '--offline is for the service, and there is no systemd here to run one; leave it out'
    fi
}

# Packages

apt_install() {
    say "packages: installing $*"
    { quietly apt-get -qq update && quietly apt-get -qq install -y --no-install-recommends "$@"; } \
        || fail "apt-get cannot install $*; mend what it says above (is there a network?), then run this again"
}

# $1: the Python that is used, as packages are named.
missing_packages() {
    local headers='import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo "$1-venv"
    if has_systemd || [ -n "$hallo2" ]; then  # something has to be compiled: systemd-python, kernels
        have cc || printf '%s\n' gcc libc6-dev
        "$PYTHON" -c "$headers" 2>/dev/null || echo "$1-dev"
    fi
    if has_systemd; then
        pkg-config --exists libsystemd 2>/dev/null || printf '%s\n' pkg-config libsystemd-dev
    fi
}

install_packages() {
    local version missing
    if [ "$PYTHON" = python3 ] && ! have python3; then
        apt_install python3 python3-venv
    fi
    have "$PYTHON" || fail "$PYTHON: there is no such program; name a Python that is there: PYTHON=/usr/bin/python3 $0"
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "$PYTHON is Python $version; install 3.11 or newer, and name it: PYTHON=/usr/bin/python3.12 $0"
    case $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
        /root/* | /home/*)
            fail "$PYTHON lies in a home folder, which the service cannot see; name another: PYTHON=/usr/bin/python3 $0"
            ;;
    esac
    mapfile -t missing < <(missing_packages "python$version")
    if [ ${#missing[@]} = 0 ]; then
        say "packages: all there, with Python $version"
    else
        apt_install "${missing[@]}"
    fi
}

# Users, folders, configuration

link_volume() {
    local place there
    [ -n "$volume" ] || return 0
    for place in "$PROGRAM" "$CONFIG" "$STATE" "$CACHE"; do
        there=$volume/$(basename "$(dirname "$place")")
        mkdir -p "$there"
        if [ "$(readlink "$place")" = "$there" ]; then
            continue
        fi
        if [ -e "$place" ] && ! rmdir "$place" 2>/dev/null; then
            fail "$place: is there already; move what is in it into $there, remove it, then run this again"
        fi
        ln -sfn "$there" "$place"
    done
    say "volume: everything lies in $volume"
}

# Copies a file of the checkout to its place, unless the same is there.
place() {
    cmp -s "$SOURCE/$1" "$2" && return
    install -D -m 644 "$SOURCE/$1" "$2"
    changed=yes
    say "$2: written"
}

make_user() {
    place etc/sysusers.d/atenea.conf "$SYSUSERS"
    if getent passwd atenea >/dev/null; then
        return
    fi
    if have systemd-sysusers; then
        quietly systemd-sysusers "$SYSUSERS"
    else
        useradd --system --user-group --comment 'atenea daemon' --home-dir "$STATE" --no-create-home \
            --shell /usr/sbin/nologin atenea
    fi
    say 'user atenea: made'
}

make_folders() {
    local folder
    place etc/tmpfiles.d/atenea.conf "$TMPFILES"
    if has_systemd; then
        systemd-tmpfiles --create "$TMPFILES"
        return
    fi
    for folder in "$STATE" "$CACHE"; do
        mkdir -p "$folder"
        chmod 750 "$folder"
        # On a volume that was used by another container, the user may have had another number.
        if [ "$(stat -Lc %U "$folder")" != atenea ] && ! chown -R atenea:atenea "$folder/" 2>/dev/null; then
            as_atenea=()
        fi
    done
    if [ ${#as_atenea[@]} = 0 ]; then
        say "user atenea: not used, since the file system of $STATE keeps no owners; root runs it"
    fi
    as_tmpfiles_says
}

# What systemd-tmpfiles would do, which is not everywhere, and does not follow the links to a volume. Without access
# control lists: who drops files in a container is mostly root.
as_tmpfiles_says() {
    local kind path mode owner group
    while read -r kind path mode owner group _; do
        if [ "$kind" != d ] || [ -d "$path" ]; then
            continue
        elif [ ${#as_atenea[@]} = 0 ]; then
            mkdir "$path"
        else
            install -d -m "$mode" -o "$owner" -g "$group" "$path"
        fi
    done <"$TMPFILES"
}

configure() {
    mkdir -p "$CONFIG"
    if [ -e "$CONFIG/atenea.toml" ]; then
        say "$CONFIG/atenea.toml: kept"
        return
    fi
    cat >"$CONFIG/atenea.toml" <<END
# $DOCS/reference.md explains every key. Secrets never stand in here.

[paths]
inbox = "$STATE/inbox"
outbox = "$STATE/outbox"
state = "$STATE/state"
cache = "$CACHE"
assets = "$STATE/assets"
plugins = "$STATE/plugins"
models = "$STATE/models"

# [render]
# plugin = "hallo2"         # photographs that speak; with the models, on an NVIDIA GPU
END
    say "$CONFIG/atenea.toml: written"
}

# The program

stop_daemon() {
    local lock=$STATE/state/daemon.lock
    if has_systemd; then
        case $(systemctl show --property ActiveState --value atenea) in
            inactive | failed) return ;;
        esac
        say 'service: stopping; its jobs go on afterwards'
        systemctl stop atenea
        stopped=yes
    elif [ -f "$lock" ] && ! flock --nonblock "$lock" true; then
        fail "atenea runs (process $(cat "$lock")); end it and run this again: its jobs go on afterwards"
    fi
}

# Whatever happens meanwhile, a service that was stopped runs again in the end.
clean_up() {
    [ -z "$stopped" ] || systemctl start atenea
    rm -rf "$scratch"
}

has_hallo2() { grep -qs hallo2 "$VENV/installed"; }

# The extras to install, as pip takes them.
extras() {
    local wanted=(provenance)
    ! has_systemd || wanted+=(systemd)
    if [ -n "$hallo2" ] && { has_nvidia || has_hallo2; }; then
        wanted+=(hallo2)
    fi
    (IFS=, && printf '%s' "${wanted[*]}")
}

# What the installed program is made of, as a hash.
fingerprint() {
    (cd "$SOURCE" && find pyproject.toml daemon hallo2 plugins -name __pycache__ -prune -o -type f -print0 \
        | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
}

install_program() {
    local extras installed version
    extras=$(extras)
    installed="$(fingerprint) $extras"
    if [ -n "$hallo2" ] && [[ $extras != *hallo2* ]]; then
        say 'hallo2: left out, for there is no NVIDIA driver; install one (docs/setup.md), then run this again'
    fi
    install -D -m 644 -t "$DOCS" "$SOURCE"/docs/*.md
    if version=$("$VENV/bin/atenea" --version 2>/dev/null) && [ "$(cat "$VENV/installed")" = "$installed" ]; then
        say "program: $version, as before"
    else
        stop_daemon
        say "program: installing with $extras, which takes a while"
        fill_environment "$extras"
        printf '%s\n' "$installed" >"$VENV/installed"
        changed=yes
        say "program: $("$VENV/bin/atenea" --version), in $VENV"
    fi
    [ -e "$COMMAND" ] || ln -sfn "$VENV/bin/atenea" "$COMMAND"
    [[ $extras != *hallo2* ]] || look_for_gpu
}

# $1: the extras. Not editable, since the service cannot look into home folders.
fill_environment() {
    if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then  # none yet, or its Python is gone
        rm -rf "$VENV"
        quietly "$PYTHON" -m venv "$VENV" || fail "$PYTHON cannot make $VENV; mend what it says above"
    fi
    printf 'incomplete %s\n' "$1" >"$VENV/installed"
    "$VENV/bin/pip" install --quiet "$SOURCE[$1]" \
        || fail 'pip cannot install atenea; mend what it says above (is there a network?), then run this again'
}

look_for_gpu() {
    if "$VENV/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        say 'hallo2: torch sees the GPU'
    else
        say 'hallo2: torch sees no GPU; nvidia-smi says which driver there is: CUDA 13 needs 580 or newer'
    fi
}

# The service

start_service() {
    place atenea.service "$UNIT"
    if [ -n "$offline" ] || [ -e "$OFFLINE" ]; then
        place etc/systemd/cpu-only.conf "$OFFLINE"
    fi
    [ -z "$changed" ] || systemctl daemon-reload
    if [ -n "$start" ]; then
        systemctl enable --quiet atenea
    elif [ -z "$stopped" ]; then
        say 'service: not started; this does it: systemctl enable --now atenea'
        return
    fi
    if [ -z "$changed" ] && systemctl is-active --quiet atenea; then
        say 'service: runs, as before'
        return
    fi
    stopped=''
    systemctl restart atenea || fail 'the service does not start; its log says why: journalctl -u atenea -n 30'
    say 'service: runs'
}

fetch_models() {
    [ -n "$models" ] || return 0
    say "models: fetching into paths.models of $CONFIG/atenea.toml"
    "${as_atenea[@]}" "$VENV/bin/atenea" models download $accept --config "$CONFIG/atenea.toml"
}

last_words() {
    if has_systemd; then
        say "Drop texts into $STATE/inbox; videos appear in $STATE/outbox. Who may: usermod -aG atenea NAME"
    else
        say 'There is no systemd here to run it. This does, until it is told to stop:'
        say "    ${as_atenea[*]}${as_atenea:+ }$VENV/bin/atenea run --config $CONFIG/atenea.toml"
    fi
}

remove() {
    local kept=() folder
    stop_daemon
    stopped=''
    if has_systemd; then
        systemctl disable --quiet atenea 2>/dev/null || true
    fi
    rm -f "$UNIT" "$OFFLINE" "$SYSUSERS" "$TMPFILES"
    rmdir "$(dirname "$OFFLINE")" 2>/dev/null || true  # unless there are drop-ins of your own
    ! has_systemd || systemctl daemon-reload
    [ "$(readlink "$COMMAND")" != "$VENV/bin/atenea" ] || rm "$COMMAND"
    rm -rf "$VENV" "$DOCS"
    rmdir "$(readlink -f "$PROGRAM")" 2>/dev/null || true
    [ -e "$PROGRAM" ] || rm -f "$PROGRAM"  # a link to a volume
    say "removed: service and program"
    for folder in "$CONFIG" "$STATE" "$CACHE"; do
        [ -z "$purge" ] || rm -rf "$(readlink -f "$folder")" "$folder"
        [ ! -e "$folder" ] || kept+=("$folder")
    done
    if [ -n "$purge" ]; then
        ! getent passwd atenea >/dev/null || quietly userdel atenea
        ! getent group atenea >/dev/null || groupdel atenea
        say "removed: configuration, data, user atenea"
    else
        say "kept: ${kept[*]-}${kept:+, }user atenea; --uninstall --purge removes them too"
    fi
    say 'kept: packages that apt-get installed, as others may use them'
}

main() {
    read_options "$@"
    check_machine
    scratch=$(mktemp -d)
    trap clean_up EXIT
    if [ -n "$uninstall" ]; then
        remove
        return
    fi
    link_volume
    ! has_hallo2 || hallo2=yes  # what was installed once stays
    install_packages
    make_user
    make_folders
    configure
    install_program
    if has_systemd; then
        start_service
    fi
    fetch_models
    last_words
}

main "$@"
