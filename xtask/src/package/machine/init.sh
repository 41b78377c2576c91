#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the machine that the package is tried on: finds its disk, puts the trial on it, and gives way to systemd.
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    [ -e "/modules/$module.ko" ] && insmod "/modules/$module.ko"
done </modules/order
mount -t ext4 /dev/vda /machine || echo 'the disk of this machine cannot be mounted'
cp -a /trial /machine/
units=/machine/etc/systemd/system
mkdir -p "$units/sysinit.target.wants" "$units/multi-user.target.wants"
cp /trial/units/* "$units/"
chmod 644 "$units"/*.service
# Without udev nobody would ever say that the console is there.
ln -sf /dev/null "$units/serial-getty@ttyS0.service"
for unit in target early-agent host-network; do
    ln -sf "../$unit.service" "$units/sysinit.target.wants/$unit.service"
done
for unit in ordinary-agent trial; do
    ln -sf "../$unit.service" "$units/multi-user.target.wants/$unit.service"
done
exec switch_root /machine /sbin/init
