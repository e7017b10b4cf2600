#!/usr/bin/env bash
# Build the Debian packages of this tree into dist/: usb-update-agent and its drop-in name.
#
#   scripts/deb.sh [DIRECTORY]
#
# Built in a copy below build/, of the files that belong into the packages and no others. The
# version is the program's own (agent/__init__.py); the times in the packages are those of the
# last commit, so the same commit gives the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
dist=$(realpath -m "${1:-dist}")
tree=$PWD/build/deb/usb-update-agent

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' agent/__init__.py)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
export SOURCE_DATE_EPOCH

say() { echo "deb: $*"; }

missing=()
for program in dpkg-buildpackage dh dh_python3; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "no ${missing[*]}; 'apt-get install dpkg-dev debhelper dh-python' brings them" >&2
    exit 1
fi

mkdir -p build "$dist"
exec 9>build/deb.lock && flock 9 # two of us at once would build in the same place
rm -rf build/deb
mkdir -p "$tree"
tar -c --mtime="@$SOURCE_DATE_EPOCH" --exclude=__pycache__ --exclude=agent/README.md agent debian docs packaging/bin systemd udev-rules README.md LICENSE |
    tar -x -C "$tree" --no-same-owner
cat >"$tree/debian/changelog" <<CHANGELOG
usb-update-agent ($version) unstable; urgency=medium

  * Version $version; what is new stands in CHANGELOG.md of the source.

 -- usb-update-agent contributors <maintainers@example.org>  $(date -uR -d "@$SOURCE_DATE_EPOCH")
CHANGELOG

# -d: the programs were looked for above; build-essential brings compilers nobody needs here.
if ! (cd "$tree" && umask 022 && dpkg-buildpackage -b -d -us -uc) >build/deb/log 2>&1; then
    tail -n 20 build/deb/log >&2
    say "could not build; the whole log is build/deb/log" >&2
    exit 1
fi
for package in build/deb/*.deb; do
    mv "$package" "$dist/"
    echo "$dist/${package##*/}"
done
