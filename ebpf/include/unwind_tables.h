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

/* The loader makes room for all CPUs. Each writes its own part alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UNWIND_KNOWN_RULES);
	__type(key, __u32);
	__type(value, struct unwind_known_rule);
} unwind_known_rules SEC(".maps");

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
	st->mappings_first = process->first;
	st->mappings_count = process->count;
	st->run = process->run;
	st->known_rules_at = bpf_get_smp_processor_id() * UNWIND_KNOWN_RULES;
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
