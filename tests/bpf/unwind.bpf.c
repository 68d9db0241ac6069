/* SPDX-License-Identifier: GPL-2.0 */
/* The unwinder alone: every sample of one process becomes a record in a
 * ring buffer, with the stack it walked over. */
#include "unwind.h"

const volatile __u32 target_tgid = 0;
/* Off: only walk, to be timed. */
const volatile bool capture = true;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwind_state);
} states SEC(".maps");

#define PAGE 4096
#define STACK_PAGES 64

/* A walk, and what it walked over. */
struct record {
	struct unwind_state walk;
	/* From UNWIND_CODE_BEFORE bytes before the interrupted instruction. */
	unsigned char code[16];
	__u64 stack_start;
	__u64 stack_pages;
	unsigned char stack[STACK_PAGES * PAGE];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 20);
} records SEC(".maps");

/* The process or a child of it. */
static __always_inline bool is_target(void)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *parent = NULL;
	__u32 tgid = 0;

	if (bpf_get_current_pid_tgid() >> 32 == target_tgid)
		return true;
	core_read(&parent, &task->real_parent);
	core_read(&tgid, &parent->tgid);
	return tgid == target_tgid;
}

SEC("perf_event")
int walk(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct unwind_state *st;
	struct record *record;

	if (!is_target())
		return 0;
	st = bpf_map_lookup_elem(&states, &zero);
	if (!st)
		return 0;
	unwind_user(ctx, st);
	if (!capture)
		return 0;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record)
		return 0;
	bpf_probe_read_kernel(&record->walk, sizeof(record->walk), st);
	record->stack_start = st->registers.sp & ~(PAGE - 1ULL);
	record->stack_pages = 0;
	if (bpf_probe_read_user(record->code, sizeof(record->code),
				(void *)(st->registers.ip - UNWIND_CODE_BEFORE)))
		record->code[UNWIND_CODE_BEFORE] = 0;
	for (int page = 0; page < STACK_PAGES; page++) {
		/* A page that was never touched cannot be read: zeros, as it holds. */
		if (!bpf_probe_read_user(record->stack + page * PAGE, PAGE,
					 (void *)(record->stack_start + page * PAGE)))
			record->stack_pages = page + 1;
	}
	bpf_ringbuf_submit(record, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
