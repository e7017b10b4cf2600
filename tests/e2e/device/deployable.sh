#!/usr/bin/env bash
# Turn a Debian root file system into what OSTree commits: our files, the project, an initramfs, and
# the directories where OSTree wants them.
#
#   deployable.sh ROOTFS FACTORY_ROOTS PACKAGE...
set -euo pipefail
rootfs=$1 roots=$2
shift 2

in_rootfs() { chroot "$rootfs" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

cp -a "$(dirname "$0")/files/." "$rootfs"
mkdir -p "$rootfs/usr/lib/sota"
cp -r "$roots" "$rootfs/usr/lib/sota/tuf"
mkdir "$rootfs/packages"
cp "$@" "$rootfs/packages"
in_rootfs sh -c 'dpkg --install /packages/*.deb'
rm -r "$rootfs/packages"

cd "$rootfs"
kernel=$(ls usr/lib/modules)
in_rootfs mkinitramfs -o "/usr/lib/modules/$kernel/initramfs.img" "$kernel"
mv "boot/vmlinuz-$kernel" "usr/lib/modules/$kernel/vmlinuz"

# Root logs in on the serial line; nothing that wakes up by itself disturbs a test.
in_rootfs passwd --quiet --delete root
in_rootfs systemctl --quiet enable qemu-guest-agent.service
in_rootfs systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service ldconfig.service \
    systemd-binfmt.service systemd-firstboot.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service systemd-pstore.service systemd-tpm2-setup.service \
    systemd-tpm2-setup-early.service

# Everything that changes is below /var, which a deployment finds empty.
mkdir -p usr/lib/sysimage
mv var/lib/dpkg usr/lib/sysimage/dpkg
rm -rf boot dev home media mnt opt root run srv tmp usr/local var vmlinuz* initrd.img*
mkdir -p boot dev proc run sys sysroot tmp var
chmod 1777 tmp
ln -s sysroot/ostree ostree
for name in home mnt opt srv; do ln -s "var/$name" "$name"; done
ln -s var/roothome root
ln -s run/media media
ln -s ../var/usrlocal usr/local
mv etc usr/etc
