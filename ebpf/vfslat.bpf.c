// SPDX-License-Identifier: GPL-2.0
/* Latency of reads and writes of regular files, by command. Sockets, pipes and terminals are left
 * out: they wait for somebody by design. */
#include "files.h"
#include "filter.h"
#include "histogram.h"

#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_PREAD64 17
#define SYS_PWRITE64 18
#define SYS_READV 19
#define SYS_WRITEV 20
#define SYS_PREADV 295
#define SYS_PWRITEV 296
#define SYS_PREADV2 327
#define SYS_PWRITEV2 328

/* `detail` of the report. The other side is src/tools/vfslat.rs. */
enum operation { NONE, READ, WRITE };

struct access {
	__u64 begin_ns;
	__u32 operation;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct access);
} accesses SEC(".maps");

static __always_inline int begin(struct file *file, enum operation operation)
{
	if (!current_wanted() || !file_is(file, S_IFREG))
		return 0;
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct access access = {.begin_ns = bpf_ktime_get_ns(), .operation = operation};
	if (bpf_map_update_elem(&accesses, &tid, &access, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

static __always_inline int end(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct access *access = bpf_map_lookup_elem(&accesses, &tid);
	if (!access)
		return 0;
	struct report_key key = {.detail = access->operation};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	add_to_histogram(&key, bpf_ktime_get_ns() - access->begin_ns);
	bpf_map_delete_elem(&accesses, &tid);
	return 0;
}

/* vfs_read(file, buf, count, pos), vfs_write(…): 5.10 to 7.2. */
SEC("fentry/vfs_read")
int fentry_read(__u64 *args)
{
	return begin((void *)args[0], READ);
}

SEC("fexit/vfs_read")
int fexit_read(void)
{
	return end();
}

SEC("fentry/vfs_write")
int fentry_write(__u64 *args)
{
	return begin((void *)args[0], WRITE);
}

SEC("fexit/vfs_write")
int fexit_write(void)
{
	return end();
}

SEC("kprobe")
int kprobe_read(struct pt_regs *regs)
{
	return begin((void *)regs->di, READ);
}

SEC("kretprobe")
int kretprobe_read(void)
{
	return end();
}

SEC("kprobe")
int kprobe_write(struct pt_regs *regs)
{
	return begin((void *)regs->di, WRITE);
}

SEC("kretprobe")
int kretprobe_write(void)
{
	return end();
}

static __always_inline enum operation operation_of(__u64 number)
{
	switch (number) {
	case SYS_READ:
	case SYS_PREAD64:
	case SYS_READV:
	case SYS_PREADV:
	case SYS_PREADV2:
		return READ;
	case SYS_WRITE:
	case SYS_PWRITE64:
	case SYS_WRITEV:
	case SYS_PWRITEV:
	case SYS_PWRITEV2:
		return WRITE;
	}
	return NONE;
}

/* sys_enter(regs, id): 5.10 to 7.2. */
SEC("tp_btf/sys_enter")
int call_enter(__u64 *args)
{
	const struct pt_regs *regs = (void *)args[0];
	enum operation operation = operation_of(args[1]);
	if (operation == NONE)
		return 0;
	return begin(file_of_descriptor(regs->di), operation);
}

/* sys_exit(regs, ret): 5.10 to 7.2. */
SEC("tp_btf/sys_exit")
int call_exit(void)
{
	return end();
}

char LICENSE[] SEC("license") = "GPL";
