# Functions that quickstart and test share; sourced with the project's directory as the current one.
# shellcheck shell=sh disable=SC2034

say() { printf '== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# watched LOG COMMAND...: runs a command, its output in a file; a line every 15 seconds shows that it lives.
watched() {
    watched_log=$1
    shift
    (
        seconds=0
        while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            seconds=$((seconds + 15))
            printf '   ... %s s: %s\n' "$seconds" "$(tail -n 1 "$watched_log" 2>/dev/null | cut -c 1-100)"
        done
    ) &
    watcher=$!
    watched_status=0
    "$@" >"$watched_log" 2>&1 || watched_status=$?
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    return "$watched_status"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "run this as root: it installs packages, and pods need a bridge and nftables"
    command -v apt-get >/dev/null || fail "this needs Debian's apt-get (reference: Debian 12)"
}

# Installs those of the named packages that are missing.
apt_install() {
    missing=
    for package; do
        case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
            *" installed") ;;
            *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    apt_update
    say "installing packages:$missing"
    # shellcheck disable=SC2086  # names of packages
    watched "$log_dir/apt.log" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing ||
        { tail -n 30 "$log_dir/apt.log" >&2; fail "apt-get could not install:$missing (log: $log_dir/apt.log)"; }
}

# Reads the package lists, at most once in a run.
apt_update() {
    [ -z "${apt_updated:-}" ] || return 0
    say "reading the package lists"
    apt-get -qq update || fail "apt-get update failed"
    apt_updated=1
}

# libvirt's QEMU driver looks its system user and group up even when it runs QEMU as somebody else, and fails without.
# Debian makes them with libvirt-daemon-system, which would start services; these are the same without them.
make_libvirt_user() {
    for group in kvm libvirt-qemu; do
        if ! getent group "$group" >/dev/null; then groupadd --system "$group"; fi
    done
    if ! getent passwd libvirt-qemu >/dev/null; then
        say "making the system user libvirt-qemu"
        useradd --system --gid kvm --groups libvirt-qemu --no-create-home --home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu
    fi
}

# Prints a Python of version 3.11 or newer that can make virtual environments and compile extensions.
find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" - <<'EOF' >/dev/null 2>&1
import ensurepip, os, sys, sysconfig, venv
assert sys.version_info >= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
EOF
        then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# make_venv EXTRA: .venv with the project (editable) and its requirements; EXTRA is "[daemon]" or "[dev]".
make_venv() {
    extra=$1
    if ! python=$(find_python); then
        apt_install python3 python3-dev python3-venv
        python=$(find_python) || fail "no Python 3.11 or newer"
    fi
    if [ -e .venv ] && ! .venv/bin/python -c 'import sys' >/dev/null 2>&1; then
        rm -rf .venv # its interpreter is gone
    fi
    [ -x .venv/bin/python ] || { say "making .venv with $python"; "$python" -m venv .venv; }
    wanted=$(cat pyproject.toml setup.py requirements/constraints.txt | sha256sum | cut -c 1-64)
    # What was installed for the tests serves the quick start as well.
    for have in "$extra" "[dev]"; do
        [ "$(cat ".venv/installed$have" 2>/dev/null)" != "$wanted" ] || return 0
    done
    say "installing Python packages"
    watched "$log_dir/pip.log" .venv/bin/python -m pip install -q --disable-pip-version-check --no-input \
        --root-user-action ignore -c requirements/constraints.txt -e ".$extra" ||
        { tail -n 30 "$log_dir/pip.log" >&2; fail "pip failed (log: $log_dir/pip.log)"; }
    rm -f .venv/installed*
    printf '%s\n' "$wanted" >".venv/installed$extra"
}

# What a host needs to run pods.
runtime_packages="qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu nftables iproute2 dnsmasq-base
    squashfs-tools-ng e2fsprogs ca-certificates libseccomp2"
# What is compiled here: libvirt-python and the guest's agent.
build_packages="gcc libc6-dev make pkg-config libvirt-dev"
# What the guest's image is made from.
guest_packages="busybox-static kmod zstd xz-utils"
# What the minimal kernel is compiled with.
kernel_packages="bison flex bc libelf-dev libssl-dev xz-utils cpio"

log_dir=.cache/log
mkdir -p "$log_dir"
