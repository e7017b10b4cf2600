#!/usr/bin/env bash
# Make this machine ready for `make demo` or `make test`: Debian packages, .venv, Docker programs.
#
#   scripts/setup.sh demo|test
#
# Run it as often as you like: what is there is left alone. As root on Debian 12 or 13 it installs
# missing packages; otherwise it says which are missing and goes on. Everything that is not a
# Debian package goes into .venv and .cache beside this project, nothing into your home.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-}
case $purpose in
demo | test) ;;
*)
    echo "usage: scripts/setup.sh demo|test" >&2
    exit 1
    ;;
esac

say() { echo "setup: $*"; }

PATH=$PATH:/usr/sbin:/sbin # mke2fs, losetup and dockerd are there, also for who is not root

debian=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true

# --- Debian packages -------------------------------------------------------------------------

# A line of `need` is a file or program and the package that brings it, so that nothing is
# installed which is there already, from wherever it came.
missing=()
need() {
    case $1 in
    /*) [ -e "$1" ] || missing+=("$2") ;;
    *) command -v "$1" >/dev/null || missing+=("$2") ;;
    esac
}

list_missing() {
    missing=()
    need ostree ostree
    need mke2fs e2fsprogs
    need losetup mount
    need setpriv util-linux
    need /etc/ssl/certs/ca-certificates.crt ca-certificates # pip and https
    find_python >/dev/null || missing+=(python3-venv)
    [ "$purpose" = test ] || return 0
    need /bin/busybox busybox-static # the images of the tests hold nothing else
    need chromium chromium
    need dpkg-buildpackage dpkg-dev # these four for the package, `make deb`
    need dh debhelper
    need dh_python3 dh-python
    need lintian lintian
    need dockerd docker.io
    need docker docker-cli
    need docker-registry docker-registry
    need fusefat fusefat # FAT sticks where the kernel has no vfat
    need fw_setenv libubootenv-tool
    need git git
    need grub-editenv grub-common
    need ip iproute2
    need iptables iptables
    need mcopy mtools
    need mkfs.exfat exfatprogs
    need mkfs.vfat dosfstools
    need mkfs.erofs erofs-utils
    need mksquashfs squashfs-tools
    need veritysetup cryptsetup-bin
    need modprobe kmod
    need sfdisk fdisk
    need sqlite3 sqlite3
    need udevadm udev
    need umockdev-wrapper umockdev
    need /usr/share/doc/gir1.2-umockdev-1.0 gir1.2-umockdev-1.0
    need /usr/lib/python3/dist-packages/gi python3-gi
    need_device
    if [ "$debian" != bookworm ] && ! compose_works; then
        missing+=(docker-compose) # version 2 from Debian 13 on
    fi
    # Debian 12 has the client inside docker.io.
    [ "$debian" != bookworm ] || missing=($(printf '%s\n' "${missing[@]}" | sed 's/^docker-cli$/docker.io/' | sort -u))
}

# What builds and runs the virtual device of tests/e2e.
need_device() {
    need mmdebstrap mmdebstrap
    need sfdisk fdisk
    need mkimage u-boot-tools
    need qemu-system-x86_64 qemu-system-x86
    need qemu-img qemu-utils
    need systemd-nspawn systemd-container
    need mcopy mtools
    need mkfs.exfat exfatprogs
    need mount.exfat-fuse exfat-fuse
    [ "$debian" = bookworm ] || need /usr/lib/u-boot/qemu-x86/u-boot.rom u-boot-qemu
}

# The first Python that is new enough and can make a virtual environment. `venv` alone is not
# enough on Debian, whose Python may lack `ensurepip`.
find_python() {
    local python
    for python in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

compose_works() { docker compose version >/dev/null 2>&1; }

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends "$@" </dev/null
}

install_missing() {
    local log=.cache/apt.log policy=/usr/sbin/policy-rc.d
    say "installing ${missing[*]}"
    # Where no systemd runs, Debian's scripts would start daemons that nobody ever stops.
    if [ ! -e $policy ] && [ ! -d /run/systemd/system ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    if ! apt_install "${missing[@]}" >$log 2>&1; then
        say "reading the package lists first"
        apt-get -q update >>$log 2>&1 || true # what matters is whether the next line works
        apt_install "${missing[@]}" >>$log 2>&1 || {
            tail -n 20 $log >&2
            say "apt-get could not install them; the whole log is $log" >&2
            return 1
        }
    fi
    [ "$(trap -p EXIT)" = "" ] || { rm -f $policy && trap - EXIT; }
}

mkdir -p .cache
exec 9>.cache/lock && flock 9 # two of us at once would write the same files
list_missing
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        say "not root, so these are not installed: ${missing[*]}; 'apt-get install ${missing[*]}' as root brings them"
    elif [ -z "$debian" ]; then
        say "not Debian, so what these packages bring is yours to install: ${missing[*]}"
    else
        install_missing
    fi
fi

# --- Python ----------------------------------------------------------------------------------

python=$(find_python) || {
    say "no Python 3.11 or later with venv; install python3 and python3-venv" >&2
    exit 1
}

# .venv is kept while pyproject.toml, its place and the Python stay the same. The extras of the
# tests serve the demo too.
place=$(pwd && "$python" -c 'import sys; print(sys.version, sys.base_prefix)')
state=$({ cat pyproject.toml && echo "$place"; } | sha256sum)
ready_for() { [ "$(cat ".venv/ready-for-$1" 2>/dev/null)" = "$state" ]; }

if ! ready_for test && ! ready_for "$purpose"; then
    say "making .venv with $("$python" --version)"
    [ "$(cat .venv/place 2>/dev/null)" = "$place" ] || rm -rf .venv # its scripts name their place
    "$python" -m venv .venv
    echo "$place" >.venv/place
    extras=""
    [ "$purpose" = demo ] || extras="[test]"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".$extras"
    echo "$state" >".venv/ready-for-$purpose"
fi

# --- Docker programs that this Debian does not have ------------------------------------------

# Debian 12 has Docker 20.10 and no compose version 2. Debian 13 has both newer; two of its
# programs run on Debian 12 as they are. They are fetched with an apt configuration of our own
# that reads the machine's sources with the suite's name replaced, so the machine's lists and
# packages stay as they are, and need no root.
NEXT=trixie
apt_dir=$PWD/.cache/apt

next_apt() {
    apt-get -q -o Dir::Etc::SourceList="$apt_dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$apt_dir/state" -o Dir::Cache="$apt_dir/cache" -o APT::Sandbox::User= \
        -o APT::Get::List-Cleanup=false -o Acquire::Languages=none "$@"
}

next_sources() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s#^Debian bookworm \(.*\)#deb [signed-by=$keyring] \1 $NEXT main#p" | sort -u
}

# fetch PACKAGE DIRECTORY: unpack Debian 13's PACKAGE into DIRECTORY.
fetch() {
    local package=$1 directory=$2 log=$PWD/.cache/apt-next.log
    [ ! -e "$directory.done" ] || return 0
    say "fetching $package of Debian 13 into $directory"
    {
        mkdir -p "$apt_dir"/{state,cache/archives/partial,debs} "$directory"
        if [ ! -s "$apt_dir/sources.list" ]; then
            [ -n "$(next_sources)" ] || [ "$(id -u)" != 0 ] || apt-get -q update
            next_sources >"$apt_dir/sources.list"
        fi
        [ -n "${next_is_read:-}" ] || next_apt update
        next_is_read=yes
        (cd "$apt_dir/debs" && next_apt download "$package")
        dpkg-deb -x "$apt_dir/debs/${package}"_*.deb "$directory"
        rm -f "$apt_dir/debs/${package}"_*.deb
        touch "$directory.done"
    } >"$log" 2>&1 || {
        say "could not fetch $package ($(grep '^[EW]:' "$log" | tail -n 1)); what needs it is left out"
        return 0
    }
}

docker_answers() { docker version >/dev/null 2>&1; }

# A compose plugin of your own is never replaced. Ours lies in a directory that only
# DOCKER_CONFIG=.cache/docker-config names.
if [ "$debian" = bookworm ] && command -v docker >/dev/null && ! compose_works; then
    if [ "$purpose" = test ] || docker_answers; then
        fetch docker-compose "$PWD/.cache/compose"
        mkdir -p .cache/docker-config/cli-plugins
        ln -sf ../../compose/usr/libexec/docker/cli-plugins/docker-compose .cache/docker-config/cli-plugins/
    fi
fi

# U-Boot for QEMU: Debian 12's does not know this device's disk.
if [ "$debian" = bookworm ] && [ "$purpose" = test ]; then
    fetch u-boot-qemu "$PWD/.cache/u-boot"
fi

# A second engine to test against: dockerd and containerd of Debian 13 run with Debian 12's runc
# (Debian 13's wants a newer libc).
if [ "$debian" = bookworm ] && [ "$purpose" = test ]; then
    fetch docker.io "$PWD/.cache/docker26"
    fetch containerd "$PWD/.cache/docker26-containerd"
fi

say "ready for 'make $purpose'"
