# What U-Boot does with an OSTree system and a counted boot.
#
# Partition 1 of the disk is the environment itself: CRC and text, 4 KiB, which is one write of
# the disk and so either old or new. `fw_printenv` and `fw_setenv` share it (/etc/fw_env.config).
# Partition 2 is the sysroot; OSTree keeps /boot/loader/uEnv.txt: kernel_image, ramdisk_image,
# bootargs, and the same with a 2 at the end for the deployment before.
#
#   upgrade_available=1  count boots in bootcount; above bootlimit set rollback=1
#   rollback=1           start the deployment before

setenv address 0x3000000
setenv kernel_address 0x8000000
setenv ramdisk_address 0x10000000
setenv names upgrade_available bootcount bootlimit rollback bootupgrade_available bootfirmware_version rollback_protection
setenv bootlimit 3

virtio read ${address} 0x800 8
if env import -c ${address} 0x1000 ${names}; then
    echo "device: environment read"
else
    echo "device: the environment is damaged"
fi

if test "${upgrade_available}" = 1; then
    # This U-Boot has no setexpr.
    if test "${bootcount}" = 0; then setenv bootcount 1;
    elif test "${bootcount}" = 1; then setenv bootcount 2;
    elif test "${bootcount}" = 2; then setenv bootcount 3;
    else setenv bootcount 4; fi
    if itest ${bootcount} -gt ${bootlimit}; then setenv rollback 1; fi
    env export -c -s 0x1000 ${address} ${names}
    virtio write ${address} 0x800 8
fi
echo "device: upgrade_available=${upgrade_available} bootcount=${bootcount} rollback=${rollback}"

load virtio 0:2 ${address} /boot/loader/uEnv.txt
env import -t ${address} ${filesize}
if test "${rollback}" = 1; then
    if test -n "${kernel_image2}"; then
        setenv kernel_image ${kernel_image2}
        setenv ramdisk_image ${ramdisk_image2}
        setenv bootargs "${bootargs2}"
    fi
fi
load virtio 0:2 ${kernel_address} ${kernel_image}
setenv kernel_size ${filesize}
load virtio 0:2 ${ramdisk_address} ${ramdisk_image}
echo "device: starting ${kernel_image}"
zboot ${kernel_address} ${kernel_size} ${ramdisk_address} ${filesize}
reset
