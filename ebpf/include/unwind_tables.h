/* SPDX-License-Identifier: GPL-2.0 */
/* What the walk looks up: the rule for an address, in the table of the module that is mapped there.
 * src/profile/unwind/maps.rs fills these maps. */
#pragma once
#include "kernel.h"
#include "unwind_abi.h"

#define BPF_F_MMAPABLE (1U << 10)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, UNWIND_PROCESSES_MAX);
	__type(key, __u32);
	__type(value, struct unwind_process);
} unwind_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UNWIND_MAPPINGS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct unwind_mapping);
} unwind_mappings SEC(".maps");

struct unwind_table_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct unwind_line));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UNWIND_TABLES_MAX);
	__type(key, __u32);
	__array(values, struct unwind_table_map);
} unwind_tables SEC(".maps");

/* The loader makes room for all CPUs in both of these. Each writes its own part alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UNWIND_KNOWN_RULES);
	__type(key, __u32);
	__type(value, struct unwind_known_rule);
} unwind_known_rules SEC(".maps");

/* By hash of the address: which of the CPU's known rules it is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UNWIND_KNOWN_RULES);
	__type(key, __u32);
	__type(value, __u32);
} unwind_known_index SEC(".maps");

/* ---- the table ---- */

static __always_inline const __u32 *table_word(void *table, __u32 index)
{
	__u32 line_index = index / UNWIND_LINE_WORDS;
	const struct unwind_line *line = bpf_map_lookup_elem(table, &line_index);

	if (!line)
		return NULL;
	return &line->words[index % UNWIND_LINE_WORDS];
}

/* Loads the header of the mapping's table into the state, unless it is there. */
static __always_inline bool load_header(struct unwind_state *st, void *table)
{
	__u32 zero = 0;
	const struct unwind_table_header *header;

	if (st->header_table == st->mapping.table + 1)
		return true;
	header = bpf_map_lookup_elem(table, &zero);
	if (!header)
		return false;
	st->header = *header;
	st->header_table = st->mapping.table + 1;
	return true;
}

/* The rule that covers an ELF address; NULL when nothing does. */
static __always_inline const struct unwind_rule *
find_rule(struct unwind_state *st, void *table, __u64 elf_address)
{
	__u64 offset = elf_address - st->header.base;
	__u32 page_bits = st->header.page_bits;
	__u32 low, high, page, within, line_index;
	__u32 rows_at = st->header.rows_at;
	const struct unwind_line *line;
	const __u32 *word;

	if (offset >= st->header.span || page_bits > UNWIND_PAGE_BITS_MAX)
		return NULL;
	page = (__u32)offset >> page_bits;
	within = (__u32)offset & ((1U << page_bits) - 1);
	word = table_word(table, st->header.pages_at + page);
	if (!word)
		return NULL;
	low = *word;
	word = table_word(table, st->header.pages_at + page + 1);
	if (!word)
		return NULL;
	high = *word;
	/* The first row of the page that starts above the address; the one before covers it, be it
	 * in this page or in an earlier one. */
	for (int step = 0; step <= UNWIND_PAGE_BITS_MAX && low < high; step++) {
		__u32 middle = low + (high - low) / 2;

		word = table_word(table, rows_at + middle);
		if (!word)
			return NULL;
		if (*word >> 16 <= within)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;
	word = table_word(table, rows_at + low - 1);
	if (!word)
		return NULL;
	/* Four words, aligned: a rule never straddles a line. */
	low = st->header.rules_at / 4 + (*word & 0xffff);
	line_index = low / (UNWIND_LINE_WORDS / 4);
	line = bpf_map_lookup_elem(table, &line_index);
	if (!line)
		return NULL;
	return (const struct unwind_rule *)&line->words[low % (UNWIND_LINE_WORDS / 4) * 4];
}

/* ---- the mappings ---- */

/* Whether a run that no sample has used yet describes the task's image. User space may learn of an
 * exec later than the new image's first sample comes. Where addresses are not randomized, it would
 * have to be that quick: both images have their vDSO at the same place. */
static __always_inline bool is_of_this_image(struct task_struct *task,
					     const struct unwind_process *process)
{
	struct mm_struct *mm = NULL;
	__u64 vdso = 0;

	if (!process->vdso)
		return true;
	core_read(&mm, &task->mm);
	core_read(&vdso, &mm->context.vdso);
	return process->vdso == vdso;
}

/* Finds the process's run of mappings. A child that has not called exec since its fork has its
 * parent's, until user space gets round to it. */
static __always_inline bool find_process(struct unwind_state *st)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *parent = NULL;
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u32 exec_id = 0, parent_exec_id = 0;
	struct unwind_process *process = bpf_map_lookup_elem(&unwind_processes, &tgid);

	core_read(&exec_id, &task->self_exec_id);
	if (!process) {
		core_read(&parent_exec_id, &task->parent_exec_id);
		if (exec_id != parent_exec_id)
			return false;
		core_read(&parent, &task->real_parent);
		core_read(&tgid, &parent->tgid);
		process = bpf_map_lookup_elem(&unwind_processes, &tgid);
		if (!process)
			return false;
	}
	if (!process->exec_id_known) {
		if (!is_of_this_image(task, process))
			return false;
		process->exec_id = exec_id;
		process->exec_id_known = 1;
	}
	if (process->exec_id != exec_id)
		return false;
	if (st->run != process->run) {
		st->mapping.start = 0;
		st->mapping.end = 0;
		st->header_table = 0;
		st->run = process->run;
	}
	st->mappings_first = process->first;
	st->mappings_count = process->count;
	st->known_at = bpf_get_smp_processor_id() * UNWIND_KNOWN_RULES;
	return true;
}

/* Makes `st->mapping` the one that holds the address. */
static __always_inline bool find_mapping(struct unwind_state *st, __u64 address)
{
	__u32 low = st->mappings_first;
	__u32 high = low + st->mappings_count;
	const struct unwind_mapping *mapping;
	__u32 index;

	if (address >= st->mapping.start && address < st->mapping.end)
		return true;
	/* The last one that starts at or below the address. */
	for (int step = 0; step <= 16 && low < high; step++) {
		index = low + (high - low) / 2;
		mapping = bpf_map_lookup_elem(&unwind_mappings, &index);
		if (!mapping)
			return false;
		if (mapping->start <= address)
			low = index + 1;
		else
			high = index;
	}
	if (low == st->mappings_first)
		return false;
	index = low - 1;
	mapping = bpf_map_lookup_elem(&unwind_mappings, &index);
	if (!mapping || address < mapping->start || address >= mapping->end)
		return false;
	st->mapping = *mapping;
	return true;
}

/* ---- the rules that were looked up before ---- */

static __always_inline struct unwind_known_rule *known_rule(const struct unwind_state *st,
							    __u32 index)
{
	__u32 at = st->known_at + index % UNWIND_KNOWN_RULES;

	return bpf_map_lookup_elem(&unwind_known_rules, &at);
}

/* The place in unwind_known_index that tells an address's rule. */
static __always_inline __u32 *known_index(const struct unwind_state *st, __u64 pc)
{
	__u32 at = st->known_at + ((pc * 0x9e3779b97f4a7c15ULL) >> 32) % UNWIND_KNOWN_RULES;

	return bpf_map_lookup_elem(&unwind_known_index, &at);
}

/* Notes which rule came after the callee's. */
static __always_inline void go_to_known_rule(struct unwind_state *st, __u32 index)
{
	struct unwind_known_rule *callee = known_rule(st, st->known_callee);

	if (callee)
		callee->next = index;
	st->known_callee = index;
}

/* The rule for an address, if it is remembered. A walk meets the rules it met before in the same
 * order, and they were put side by side: mostly the next one is at hand without a search, and in
 * the CPU's cache. */
static __always_inline const struct unwind_rule *find_known_rule(struct unwind_state *st, __u64 pc)
{
	struct unwind_known_rule *known = known_rule(st, st->known_next);
	__u32 *index;

	if (known && known->pc == pc && known->run == st->run) {
		st->known_callee = st->known_next;
		st->known_next = known->next;
		return &known->rule;
	}
	index = known_index(st, pc);
	if (!index)
		return NULL;
	known = known_rule(st, *index);
	if (!known || known->pc != pc || known->run != st->run)
		return NULL;
	go_to_known_rule(st, *index);
	st->known_next = known->next;
	return &known->rule;
}

static __always_inline void remember_rule(struct unwind_state *st, __u64 pc,
					  const struct unwind_rule *rule)
{
	__u32 place = st->known_count++ % UNWIND_KNOWN_RULES;
	struct unwind_known_rule *known = known_rule(st, place);
	__u32 *index = known_index(st, pc);

	if (!known || !index)
		return;
	known->pc = pc;
	known->run = st->run;
	known->next = place + 1;
	known->rule = *rule;
	*index = place;
	go_to_known_rule(st, place);
	st->known_next = place + 1;
}
