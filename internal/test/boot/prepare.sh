# Makes the disk of a machine: this machine's root, and above it, in memory, what the test put into DIR/add and what the
# machine writes. It lasts as long as this process, whose mounts nobody else sees; more than one boot may follow.
#   bash prepare.sh DIR CLOUD_INIT
set -euo pipefail
dir=$1 cloudinit=$2
mount -t tmpfs -o mode=755 tmpfs "$dir/disk"
mkdir "$dir"/disk/{upper,work,root,docker}
upper=$dir/disk/upper root=$dir/disk/root

# What this machine is set up to do, the other must not: units, jobs, file systems, containers, apt's proxies.
empty=(etc/systemd/system etc/systemd/user etc/init.d etc/apt etc/cloud etc/docker var/lib/docker var/lib/containerd var/lib/apt/lists
	var/lib/systemd var/lib/cloud var/lib/difyup var/log/journal root home tmp run)
gone=(.dockerenv etc/rc.local etc/machine-id etc/fstab etc/resolv.conf usr/sbin/policy-rc.d etc/rc{S,0,1,2,3,4,5,6}.d
	usr/lib/systemd/system/{docker,containerd}.service usr/lib/systemd/system/docker.socket)
for name in "${empty[@]}" "${gone[@]}"; do
	if [[ -e /$name || -L /$name ]]; then
		mkdir -p "$(dirname "$upper/$name")"
		mknod "$upper/$name" c 0 0 # the file system's way to say that it is not there
	fi
done
mount -t overlay -o "lowerdir=/,upperdir=$upper,workdir=$dir/disk/work" overlay "$root"
for name in "${empty[@]}"; do mkdir -p "$root/$name"; done
mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d} "$root/var/lib/apt/lists/partial"
for from in "$cloudinit" "$dir/add"; do tar -C "$from" -c . | tar -C "$root" -x --keep-directory-symlink --no-same-owner; done
# Without a name it would take this for its first start, and enable whatever is installed here.
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
ln -s /dev/null "$root/etc/systemd/system/console-getty.service"
mkdir "$root/etc/systemd/system/cloud-init.target.wants"
for unit in cloud-init-local cloud-init cloud-config cloud-final; do # as the package enables them
	ln -s "/lib/systemd/system/$unit.service" "$root/etc/systemd/system/cloud-init.target.wants/"
done
# systemd knows that it is in a container, and leaves alone what is the kernel's. cloud-init reads the metadata server on
# Google's machines only, and asks this whether it is on one.
rm "$root/usr/bin/systemd-detect-virt"
cat >"$root/usr/bin/systemd-detect-virt" <<'END'
#!/bin/sh
for word; do case $word in -c | --container) exit 1 ;; esac; done
echo kvm
END
chmod 755 "$root/usr/bin/systemd-detect-virt"
# Docker is not installed yet, as far as dpkg knows. What it knows of files would make it remove this machine's Docker, as of a former
# version, when it unpacks a package that was half unpacked.
awk -v RS= -v ORS='\n\n' '!/^Package: (docker[a-z.-]*|containerd(\.io)?|runc)\n/' /var/lib/dpkg/status >"$dir/disk/status"
cat "$dir/disk/status" >"$root/var/lib/dpkg/status"
rm -f "$root"/var/lib/dpkg/info/{docker,docker[.-]*,containerd,containerd.io,runc}.*
chmod 1777 "$root/tmp"
echo ready
read -r _ || true
