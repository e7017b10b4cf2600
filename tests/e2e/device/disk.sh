#!/usr/bin/env bash
# The system disk: partition 1 is U-Boot's environment, partition 2 the sysroot with one deployment.
#
#   disk.sh IMAGE REPO COMMIT
#
# Needs root for a loop device and a mount.
set -euo pipefail
image=$1 repo=$2 commit=$3
here=$(cd "$(dirname "$0")" && pwd)

ENVIRONMENT_BYTES=4096
SYSROOT_OFFSET=$((4 << 20)) # tests/e2e/disk.py knows it too

rm -f "$image"
truncate -s 4G "$image"
sfdisk --quiet "$image" <<'TABLE'
label: dos
start=2048, size=8, type=da
start=8192, type=83, bootable
TABLE

work=$(mktemp -d)
printf '%s\n' upgrade_available=0 bootcount=0 bootlimit=3 rollback=0 bootupgrade_available=0 \
    bootfirmware_version=1 >"$work/environment"
mkenvimage -s $ENVIRONMENT_BYTES -o "$work/environment.bin" "$work/environment"
dd if="$work/environment.bin" of="$image" bs=512 seek=2048 conv=notrunc status=none
mkimage -A x86 -T script -d "$here/boot.cmd" "$work/boot.scr" >/dev/null

loop=$(losetup --find --show --offset $SYSROOT_OFFSET "$image")
sysroot=$work/sysroot
mkdir "$sysroot"
trap 'umount "$sysroot" 2>/dev/null || true; losetup --detach "$loop"; rm -rf "$work"' EXIT
# U-Boot 2025.01 reads neither of these two features.
mkfs.ext4 -q -L otaroot -O ^metadata_csum_seed,^orphan_file "$loop" 2>/dev/null ||
    mkfs.ext4 -q -F -L otaroot "$loop"
mount "$loop" "$sysroot"

ostree admin init-fs --modern "$sysroot"
ostree admin os-init --sysroot="$sysroot" debian
ostree config --repo="$sysroot/ostree/repo" set sysroot.bootloader uboot
# uEnv.txt names files as U-Boot finds them: /boot is a directory of the sysroot.
ostree config --repo="$sysroot/ostree/repo" set sysroot.bootprefix true
mkdir -p "$sysroot/boot/loader.0"
ln -s loader.0 "$sysroot/boot/loader"
ln -s loader/uEnv.txt "$sysroot/boot/uEnv.txt"
touch "$sysroot/boot/loader.0/uEnv.txt"
cp "$work/boot.scr" "$sysroot/boot/boot.scr"

ostree pull-local --repo="$sysroot/ostree/repo" "$repo" "$commit"
ostree admin deploy --sysroot="$sysroot" --os=debian --karg=root=LABEL=otaroot --karg=rw \
    --karg=console=ttyS0 --karg=panic=5 --karg=quiet --karg=systemd.show_status=0 "$commit"
cat "$sysroot/boot/loader/uEnv.txt"
