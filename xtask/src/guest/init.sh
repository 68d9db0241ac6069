#!/bin/busybox sh
# Process 1 of a guest. Mounts what flame needs, loads the modules that were put in, runs every
# check in order, and reports on the second serial line; the first is the kernel's own.
# `report.rs` reads what is written here.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
/bin/busybox --install -s /bin
export PATH=/bin:/loads HOME=/tmp
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up

stty -F /dev/ttyS1 raw
report() { echo "$*" >/dev/ttyS1; }

report "kernel $(uname -r)"
for module in /modules/*.ko; do
	[ -e "$module" ] || continue
	insmod "$module" || report "module-failed $module"
done
for check in /checks/*.sh; do
	report "begin $(basename "$check" .sh)"
	mkdir /tmp/check
	cd /tmp/check
	# A check that hangs must not take the results of the others with it.
	timeout 180 sh "$check" >/run/stdout 2>/run/stderr
	status=$?
	cd /
	rm -r /tmp/check
	sed 's/^/out /' /run/stdout >/dev/ttyS1
	sed 's/^/err /' /run/stderr >/dev/ttyS1
	report "exit $status"
done
report "uptime $(cut -d' ' -f1 /proc/uptime)"
report "done"
# The line drains before the power goes.
sleep 0.2
poweroff -f
