SUMMARY = "Offline updates from a USB stick for devices with OSTree and Compose Apps"
DESCRIPTION = "A person plugs in a USB stick; the agent finds signed bundles, verifies, stages, \
reboots, finishes after the boot, and leaves the result on the stick."
SECTION = "admin"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=d22c6a8b5ca2ae056ed956e117369825"

# Yours to fill in, in local.conf or the distribution: where you keep the source, and which
# commit of it goes into the image.
USB_UPDATE_AGENT_GIT ??= "git://git.example.org/usb-update-agent.git;protocol=https;branch=main"
USB_UPDATE_AGENT_REV ??= "0000000000000000000000000000000000000000"
SRC_URI = "${USB_UPDATE_AGENT_GIT}"
SRCREV = "${USB_UPDATE_AGENT_REV}"
S = "${WORKDIR}/git"

inherit python_hatchling systemd

SYSTEMD_SERVICE:${PN} = "usb-update.service usb-update-run.service"

do_install:append() {
    install -d ${D}${systemd_system_unitdir} ${D}${nonarch_base_libdir}/udev/rules.d ${D}${mandir}/man1
    install -m 0644 ${S}/systemd/usb-update.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/usb-update-run.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/udev-rules/90-usb-update.rules ${D}${nonarch_base_libdir}/udev/rules.d/
    install -m 0644 ${S}/docs/man/usb-update.1 ${D}${mandir}/man1/
    install -m 0644 ${S}/docs/man/aklite-offline.1 ${D}${mandir}/man1/
}

# The name that scripts expect is a package of its own: an image may hold aktualizr-lite's.
PACKAGES =+ "${PN}-aklite-offline"
SUMMARY:${PN}-aklite-offline = "aklite-offline command of usb-update-agent"
FILES:${PN}-aklite-offline = "${bindir}/aklite-offline"
RDEPENDS:${PN}-aklite-offline = "${PN} (= ${EXTENDPKGV})"

FILES:${PN} += " \
    ${systemd_system_unitdir}/usb-update.service \
    ${systemd_system_unitdir}/usb-update-run.service \
    ${nonarch_base_libdir}/udev/rules.d/90-usb-update.rules \
"

# python3-modules is the whole standard library.
RDEPENDS:${PN} += " \
    ostree \
    python3-cryptography \
    python3-docker \
    python3-modules \
    python3-pyudev \
    python3-pyyaml \
    python3-structlog \
    python3-tomli \
    udev \
    util-linux-mount \
    util-linux-umount \
"
RSUGGESTS:${PN} += "docker docker-compose libubootenv-bin python3-pygit2 usbguard"
