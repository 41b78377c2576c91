#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do
    [ -e "/modules/$module.ko" ] && insmod "/modules/$module.ko"
done
mount -t ext4 /dev/vda /machine || echo 'the disk of this machine cannot be mounted'
cp -a /trial /machine/
units=/machine/etc/systemd/system
mkdir -p "$units/sysinit.target.wants" "$units/multi-user.target.wants"
cp /trial/units/* "$units/"
for unit in target early-agent host-network; do
    ln -sf "../$unit.service" "$units/sysinit.target.wants/$unit.service"
done
for unit in ordinary-agent trial; do
    ln -sf "../$unit.service" "$units/multi-user.target.wants/$unit.service"
done
exec switch_root /machine /sbin/init
