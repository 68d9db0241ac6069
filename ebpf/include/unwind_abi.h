/* SPDX-License-Identifier: GPL-2.0 */
/* What the unwinder's two sides agree on. The other side is src/profile/unwind/abi.rs; a test
 * compares the two through the object's BTF.
 *
 * From a user address to its unwind rule:
 *
 *   unwind_processes   tgid            -> a run of unwind_mappings, sorted by address
 *   unwind_mappings    binary search   -> which table, and the bias from address to ELF address
 *   unwind_tables      table number    -> one module's table, an inner array at its exact size
 *   the table          ELF address     -> page index -> rows of the page -> rule
 *
 * A process costs one hash lookup a sample; neighbouring frames mostly stay in one mapping, which
 * the walk remembers. A table is one flat run of 32-bit words, the same in the BPF array, in the
 * cache on disk and in user space's model:
 *
 *   line 0      struct unwind_table_header
 *   pages_at    index of the first row of each page, one more than there are pages
 *   rows_at     rows: ELF address within its page << 16 | index of the rule; sorted
 *   rules_at    struct unwind_rule, four words each
 */
#pragma once
#include "kernel.h"

#define UNWIND_FRAMES_MAX 512
/* In an address of a stack: execution stood there when a signal came; it is no return address. */
#define UNWIND_INTERRUPTED (1ULL << 63)
#define UNWIND_TABLES_MAX 8192
#define UNWIND_MAPPINGS_MAX 65536
#define UNWIND_PROCESSES_MAX 32768
/* 16 words: an array element is rounded up to eight bytes, so single rows would waste half. */
#define UNWIND_LINE_WORDS 16
/* Sixteen bits of address within a page, in a row. */
#define UNWIND_PAGE_BITS_MAX 16

/* Bytes of code before pc that tell a linkage stub's instructions apart. */
#define UNWIND_CODE_BEFORE 6

/* A program's first frames, below what the kernel put on its stack, take no more than so many bytes
 * until `main` is called. */
#define UNWIND_START_BYTES 64

struct unwind_line {
	__u32 words[UNWIND_LINE_WORDS];
};

struct unwind_table_header {
	/* ELF address of page 0. */
	__u64 base;
	/* Bytes of address space the pages cover. */
	__u32 span;
	__u32 page_bits;
	/* Word indices. */
	__u32 pages_at;
	__u32 rows_at;
	__u32 rules_at;
	__u32 rows;
	__u32 rules;
	__u32 version;
	__u32 reserved[6];
};

/* How a rule finds the canonical frame address: the caller's stack pointer. */
enum unwind_cfa {
	/* No call frame information covers this address. */
	UNWIND_CFA_NONE = 0,
	/* stack pointer + cfa_offset */
	UNWIND_CFA_SP = 1,
	/* frame pointer + cfa_offset */
	UNWIND_CFA_FP = 2,
	/* register `cfa_register` + cfa_offset: known in the interrupted function only */
	UNWIND_CFA_REGISTER = 3,
	/* sp + 8 + ((pc & 15) >= cfa_register ? 8 : 0): a PLT entry */
	UNWIND_CFA_PLT = 4,
	/* *(sp + cfa_offset) + deref_add */
	UNWIND_CFA_SP_DEREF = 5,
	/* *(fp + cfa_offset) + deref_add */
	UNWIND_CFA_FP_DEREF = 6,
	/* The return address is undefined: the outermost frame. */
	UNWIND_CFA_STOP = 7,
	/* The kernel built this frame to run a signal handler. */
	UNWIND_CFA_SIGNAL = 8,
	/* Something valid that the walk does not do. */
	UNWIND_CFA_UNSUPPORTED = 9,
};

/* How a rule finds the caller's frame pointer. */
enum unwind_fp {
	/* Unchanged. */
	UNWIND_FP_SAME = 0,
	/* *(cfa + fp_offset) */
	UNWIND_FP_AT_CFA = 1,
	/* *(fp + fp_offset) */
	UNWIND_FP_AT_FP = 2,
	/* Nobody knows. */
	UNWIND_FP_UNDEFINED = 3,
};

struct unwind_rule {
	__u8 cfa;
	/* A register as its index in struct pt_regs, or the threshold of a PLT entry. */
	__u8 cfa_register;
	__u8 fp;
	__u8 reserved;
	__s32 cfa_offset;
	__s32 fp_offset;
	__s16 deref_add;
	/* The return address is at cfa + ra_offset. */
	__s16 ra_offset;
};

/* What is mapped. */
enum unwind_mapping_kind {
	/* A file with a table. */
	UNWIND_MAPPING_TABLE = 0,
	/* Anonymous memory (a JIT's code) or a file without a table: frame pointers. */
	UNWIND_MAPPING_FRAME_POINTERS = 1,
};

struct unwind_mapping {
	__u64 start;
	__u64 end;
	/* address - bias = ELF address */
	__u64 bias;
	__u32 table;
	__u32 kind;
};

/* A process's run of unwind_mappings. Replaced as a whole, so a walk sees an old run or a new. */
struct unwind_process {
	__u32 first;
	__u32 count;
	/* task_struct::self_exec_id of the image the run describes; the first sample of that image
	 * fills it in. An exec changes it, and then the run is not used. */
	__u32 exec_id;
	__u32 exec_id_known;
	/* The run's serial number: no two runs ever share one. */
	__u32 run;
	__u32 reserved;
	/* Where the image has its vDSO, 0 if that is not known: an exec puts it at another place. */
	__u64 vdso;
};

/* A rule that was looked up before, by address and run. */
struct unwind_known_rule {
	__u64 pc;
	__u32 run;
	/* Which one the caller's was last time. */
	__u32 next;
	struct unwind_rule rule;
};

/* Each CPU remembers as many: the return addresses of a program are few. 64 KiB, and 8 KiB. */
#define UNWIND_KNOWN_RULES 2048

/* How a walk ended. */
enum unwind_outcome {
	UNWIND_RUNNING = 0,
	/* Reached the outermost frame. */
	UNWIND_ROOTED = 1,
	/* Everything below is a stack cut short; its addresses up to there are good. */
	UNWIND_TOO_DEEP = 2,
	/* No mappings are known for the process (yet). */
	UNWIND_UNKNOWN_PROCESS = 3,
	/* No mapping is known for the last address (yet): a dlopen, or new JIT code. */
	UNWIND_UNMAPPED = 4,
	/* The mapping's table is not loaded (yet). */
	UNWIND_NO_TABLE = 5,
	/* A CFI form that the walk does not do. */
	UNWIND_UNSUPPORTED_RULE = 6,
	/* The frame's memory could not be read: paged out, or no stack. */
	UNWIND_STACK_UNREADABLE = 7,
	/* The CFA does not lie above the stack pointer. */
	UNWIND_BAD_CFA = 8,
	/* Code without CFI, and no frame pointer to go by. */
	UNWIND_BAD_FRAME_POINTER = 9,
	/* A 32-bit program. */
	UNWIND_COMPAT = 10,
	/* A kernel thread, or an exiting task: no user stack at all. */
	UNWIND_NO_USER = 11,
	/* No CFI covers the code, and frame pointers were ruled out. */
	UNWIND_NO_CFI = 12,
	UNWIND_OUTCOMES = 13,
};

/* One walk. It lives in a per-CPU map: too large for the BPF stack. */
struct unwind_state {
	/* Where the walk stands. */
	__u64 pc;
	__u64 sp;
	__u64 fp;
	/* The mapping of the last lookup, and the header of its table. They outlive the walk: the next
	 * one on this CPU may be of the same run. */
	struct unwind_mapping mapping;
	struct unwind_table_header header;
	/* The table `header` belongs to, plus one; 0 for none. */
	__u32 header_table;
	/* The process's run of mappings. */
	__u32 mappings_first;
	__u32 mappings_count;
	__u32 run;
	/* This CPU's first element of unwind_known_rules and unwind_known_index. */
	__u32 known_at;
	/* How many rules this CPU ever remembered: the next one's place, modulo their number. */
	__u32 known_count;
	/* The callee's rule among them, and the one that its caller's was last time. */
	__u32 known_callee;
	__u32 known_next;
	/* pc is where execution stands, not a return address: the interrupted function, or what a
	 * signal interrupted. */
	__u32 exact;
	/* `registers` are those of the current frame: only true of the interrupted function. */
	__u32 registers_known;
	__u32 fp_known;
	/* Of this frame's callee, whose return address was found through a frame pointer. */
	__u32 through_fp;
	__u32 reserved;
	struct pt_regs registers;
	/* Over the addresses as they come in. */
	__u64 hash;
	/* From here on the state is a stack as the stack maps keep it. */
	/* enum unwind_outcome */
	__u32 outcome;
	__u32 count;
	/* Leaf first. */
	__u64 addresses[UNWIND_FRAMES_MAX];
};
