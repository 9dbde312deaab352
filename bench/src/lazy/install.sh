#!/usr/bin/env bash
# install.sh BASE WORK PACKAGE...: installs packages of Debian over the folder BASE and leaves what that changed in
# WORK/upper, as overlayfs keeps it. To be run in mount and process namespaces of its own, which end with it.
set -euo pipefail

base=$1 work=$2
shift 2
mkdir -p "$work"/{upper,work,root}
root=$work/root
# What a layer cannot say is off: names of other folders, files without content, shared inodes.
mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work,redirect_dir=off,metacopy=off,index=off" \
    overlay "$root"
mount -t proc proc "$root/proc"
[ -e "$root/etc/resolv.conf" ] || touch "$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
# No service is started.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
chroot "$root" apt-get update -qq
chroot "$root" apt-get install -qq --no-install-recommends "$@"
chroot "$root" apt-get clean

umount "$root/etc/resolv.conf" "$root/proc"
rm -rf "$root"/usr/sbin/policy-rc.d "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log
umount "$root"
