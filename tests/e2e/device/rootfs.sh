#!/usr/bin/env bash
# The root file system of the virtual device: Debian 13 from its packages, nothing configured yet.
#
#   rootfs.sh DIRECTORY
#
# Needs root, mmdebstrap and the network; everything after this step is offline.
set -euo pipefail
cd "$(dirname "$0")"

SUITE=trixie
archive=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | grep -v security | head -n 1)

# The base system of a device, what this project depends on, and what the tests need in it:
# the guest agent, and a real udevd also in a container.
packages=(
    systemd systemd-sysv udev dbus kmod linux-image-amd64 initramfs-tools zstd busybox-static
    ostree ostree-boot libubootenv-tool
    docker.io docker-cli docker-compose iptables ca-certificates
    python3 python3-cryptography python3-docker python3-pygit2 python3-pyudev python3-structlog
    python3-tomli python3-yaml
    e2fsprogs iproute2 login mount procps util-linux
    qemu-guest-agent
)

# A machine of virtio devices and USB has no use for the rest; a smaller image is built,
# copied and booted sooner.
left_out=(
    /usr/share/{doc,man,info,locale}/'*'
    '/usr/lib/modules/*/kernel/sound/*'
    '/usr/lib/modules/*/kernel/drivers/'{gpu,infiniband,isdn,media,net,staging}'/*'
)
options=()
for path in "${left_out[@]}"; do options+=(--dpkgopt="path-exclude=$path"); done
options+=(--dpkgopt='path-include=/usr/lib/modules/*/kernel/drivers/net/veth*')

exec mmdebstrap --mode=root --variant=minbase --format=directory \
    --aptopt='Apt::Install-Recommends "false"' "${options[@]}" \
    --include="$(IFS=,; echo "${packages[*]}")" \
    "$SUITE" "$1" \
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $SUITE main"
