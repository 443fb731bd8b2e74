# Boots a machine whose disk prepare.sh made: systemd becomes the first process of namespaces of its own.
#   bash boot.sh DIR CONSOLE PRODUCT
set -euo pipefail
dir=$1 console=$2 product=$3
root=$dir/disk/root
mount -t proc proc "$root/proc"
# What is of the kernel and of no namespace can be read only.
for name in sys sysrq-trigger irq bus acpi; do
	[[ ! -e $root/proc/$name ]] || { mount --bind "$root/proc/$name" "$root/proc/$name"; mount -o remount,bind,ro "$root/proc/$name"; }
done
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,rw "$root/proc/sys/net"

mkdir -p "$dir/sysfs"
mount -t sysfs -o ro sysfs "$dir/sysfs"
mount -t tmpfs -o mode=755 tmpfs "$root/sys"
for path in "$dir"/sysfs/*; do
	mkdir "$root/sys/${path##*/}"
	[[ $path == */class ]] || mount --rbind "$path" "$root/sys/${path##*/}"
done
for path in "$dir"/sysfs/class/*; do
	[[ $path != */dmi ]] || continue
	mkdir "$root/sys/class/${path##*/}"
	mount --bind "$path" "$root/sys/class/${path##*/}"
done
mkdir -p "$root/sys/class/dmi/id" # the machine that it takes itself for
echo "$product" >"$root/sys/class/dmi/id/product_name"
mount -o remount,ro "$root/sys"
if [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]; then
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
	mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
	while IFS=: read -r _ controllers _; do
		at=$root/sys/fs/cgroup/${controllers#name=}
		case $controllers in
		'') mkdir "$at/unified" && mount -t cgroup2 cgroup2 "$at/unified" ;;
		name=*) mkdir "$at" && mount -t cgroup -o "none,$controllers" cgroup "$at" ;;
		*) mkdir "$at" && mount -t cgroup -o "$controllers" cgroup "$at" ;;
		esac
	done </proc/self/cgroup
fi

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
	: >"$root/dev/$name"
	mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
: >"$root/dev/console"
mount --bind "$console" "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$dir/disk/docker" "$root/var/lib/docker"
mkdir "$root/run/host"
echo difyup-test >"$root/run/host/container-manager"

mkdir -p "$root/mnt"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-wake_alarm,-mac_admin,-mac_override --inh-caps=-all -- \
	env -i /lib/systemd/systemd --system --unit=multi-user.target --show-status=false --log-target=console --log-level=notice </dev/console >/dev/console 2>&1
