# What the checks of the ZFS tools share; each sources it.

# start NAME TOOL [OPTION…]: runs a tool in the background; comes back when it counts.
start() {
	name=$1
	shift
	flame "$@" >"$name.out" 2>"$name.err" &
	eval "${name}_pid=$!"
	until grep -q ^Tracing "$name.err"; do
		if ! kill -0 $!; then
			cat "$name.err" >&2
			exit 1
		fi
		sleep 0.1
	done
}

# finish NAME: ends it as Ctrl-C would; prints its output, each line behind the name.
finish() {
	eval "pid=\$${1}_pid"
	kill "$pid"
	wait "$pid" || exit
	cat "$1.err" >&2
	sed "s/^/$1 /" "$1.out"
}

# Nothing of the pool is cached after this.
cool_down() {
	zpool export tank || exit
	zpool import -o cachefile=none -d /disks tank || exit
}

# write FILE BLOCKS: whole records, on disk when it comes back.
write() {
	dd if=/dev/urandom of="/tank/$1" bs=128k count="$2" 2>/dev/null || exit
	zpool sync tank || exit
}

# own_count NAME PROBE KEY: the kernel's own count of a probe's hits, by a value.
own_count() {
	echo "$2" >>/sys/kernel/tracing/kprobe_events || exit
	echo "hist:keys=$3" >"/sys/kernel/tracing/events/own/$1/trigger" || exit
}

# own_counts NAME: what it counted, as `NAME VALUE COUNT`.
own_counts() {
	sed -n "s/^{ [a-z]*: *\([-0-9]*\) } hitcount: *\([0-9]*\).*/$1 \1 \2/p" \
		"/sys/kernel/tracing/events/own/$1/hist"
}
