/* SPDX-License-Identifier: GPL-2.0 */
/* Walks the user stack of the current task by call frame information, by frame pointers where
 * there is none. src/profile/unwind/walk.rs is the same walk over a captured stack: change both.
 *
 * One frame is one call of `unwind_step`, a global function: the verifier proves it once, by
 * itself, so the loop around it costs a few instructions a turn and 512 frames need neither
 * bpf_loop (5.17) nor tail calls. Needs 5.15 (bpf_task_pt_regs). */
#pragma once
#include "unwind_tables.h"

#define PF_IO_WORKER 0x00000010   /* include/linux/sched.h */
#define PF_USER_WORKER 0x00004000 /* since 6.4 */

#define USER32_CS 0x23 /* arch/x86/include/asm/segment.h */

static void *(*const bpf_get_current_task_btf)(void) = (void *)158;

/* Walk code without CFI by its frame pointers; else the stack ends there. */
const volatile bool unwind_by_frame_pointers = true;

/* ---- one frame ---- */

/* FNV's step on whole words, with the bits brought down that multiplication only moves up. */
static __always_inline __u64 hash_word(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

/* Goes to the caller, whose pc is known now. */
static __always_inline int enter_caller(struct unwind_state *st, __u64 pc, __u64 sp)
{
	st->sp = sp;
	st->pc = pc;
	st->registers_known = 0;
	if (!pc) {
		/* By convention nobody called the outermost function. */
		st->outcome = UNWIND_ROOTED;
		return 1;
	}
	if (st->count >= UNWIND_FRAMES_MAX) {
		st->outcome = UNWIND_TOO_DEEP;
		return 1;
	}
	st->addresses[st->count & (UNWIND_FRAMES_MAX - 1)] = pc;
	st->count++;
	st->hash = hash_word(st->hash, pc);
	return 0;
}

static __always_inline int stop(struct unwind_state *st, __u32 outcome)
{
	st->outcome = outcome;
	return 1;
}

/* How many words lie between the stack pointer and the return address where no frame stands: it is
 * not set up yet, or torn down again, or the code is a stub of the procedure linkage table (LLD
 * writes no CFI for those). Negative when the code says nothing of the kind. */
static __always_inline int words_above_return(struct unwind_state *st)
{
	/* What comes before pc, and what stands there. */
	__u8 code[UNWIND_CODE_BEFORE + 4];
	const __u8 *at = code + UNWIND_CODE_BEFORE;

	if (bpf_probe_read_user(code, sizeof(code), (void *)(st->pc - UNWIND_CODE_BEFORE)))
		return -1;
	switch (at[0]) {
	case 0x55: /* push %rbp */
	case 0x68: /* push $index */
	case 0xc2: /* ret $n */
	case 0xc3: /* ret */
		return 0;
	case 0x48: /* mov %rsp,%rbp, in two encodings: %rbp is pushed */
		if ((at[1] == 0x89 && at[2] == 0xe5) || (at[1] == 0x8b && at[2] == 0xec))
			return 1;
		return -1;
	case 0xe9: /* jmp, after push $index or as a tail call */
		return code[1] == 0x68;
	case 0xf2: /* bnd jmp *slot(%rip) */
		return at[1] == 0xff && at[2] == 0x25 ? 0 : -1;
	case 0xf3: /* endbr64 */
		return at[1] == 0x0f && at[2] == 0x1e && at[3] == 0xfa ? 0 : -1;
	case 0xff:
		if (at[1] == 0x35) /* push *slot(%rip): the table's first stub, after an index */
			return 1;
		if (at[1] == 0x25) /* jmp *slot(%rip) */
			return code[0] == 0xff && code[1] == 0x35 ? 2 : 0;
		return -1;
	}
	return -1;
}

/* Where the kernel put the program's arguments, below which its stack begins; 0 if not known. */
static __always_inline __u64 start_of_stack(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct mm_struct *mm = NULL;
	__u64 start_stack = 0;

	core_read(&mm, &task->mm);
	core_read(&start_stack, &mm->start_stack);
	return start_stack;
}

/* Neither call frame information nor a frame pointer leads on. What calls `main` in musl has
 * neither, and nobody called it but the program's first instructions. */
static __always_inline int stop_without_frame(struct unwind_state *st)
{
	if (!st->exact && start_of_stack() - st->sp <= UNWIND_START_BYTES)
		return stop(st, UNWIND_ROOTED);
	return stop(st, UNWIND_BAD_FRAME_POINTER);
}

/* A step by frame pointer: the caller's is at *fp, the return address above it. */
static __always_inline int step_by_frame_pointer(struct unwind_state *st)
{
	int words = st->exact ? words_above_return(st) : -1;
	__u64 frame[2];

	st->through_fp = 1;
	if (words >= 0) {
		__u64 return_at = st->sp + words * 8;

		if (bpf_probe_read_user(&frame[1], sizeof(frame[1]), (void *)return_at))
			return stop(st, UNWIND_STACK_UNREADABLE);
		st->exact = 0;
		/* A pushed frame pointer is still the caller's own. */
		return enter_caller(st, frame[1], return_at + 8);
	}
	if (!unwind_by_frame_pointers)
		return stop(st, UNWIND_NO_CFI);
	if (!st->fp_known)
		return stop_without_frame(st);
	if (!st->fp) /* The psABI's mark of the outermost frame. */
		return stop(st, UNWIND_ROOTED);
	if (st->fp & 7 || st->fp < st->sp ||
	    bpf_probe_read_user(frame, sizeof(frame), (void *)st->fp))
		return stop_without_frame(st);
	st->sp = st->fp + 16;
	st->fp = frame[0];
	st->exact = 0;
	return enter_caller(st, frame[1], st->sp);
}

/* The kernel saved the interrupted registers in struct rt_sigframe; the handler's return popped
 * its first word. arch/x86/include/asm/sigframe.h: ucontext at 8, sigcontext 40 into it. */
static __always_inline int step_over_signal(struct unwind_state *st)
{
	/* rbp rbx rdx rax rcx rsp rip */
	__u64 saved[7];

	if (bpf_probe_read_user(saved, sizeof(saved), (void *)(st->sp + 120)))
		return stop(st, UNWIND_STACK_UNREADABLE);
	st->fp = saved[0];
	st->fp_known = 1;
	st->exact = 1;
	st->through_fp = 0;
	if (enter_caller(st, saved[6], saved[5]))
		return 1;
	st->addresses[(st->count - 1) & (UNWIND_FRAMES_MAX - 1)] |= UNWIND_INTERRUPTED;
	return 0;
}

/* Nothing covers this code. musl's and Go's signal return carry no CFI: known by its bytes,
 * mov $15,%rax; syscall. All else: frame pointers. */
static __always_inline int step_without_rule(struct unwind_state *st)
{
	__u8 code[9];

	if (!bpf_probe_read_user(code, sizeof(code), (void *)st->pc) && code[0] == 0x48 &&
	    code[1] == 0xc7 && code[2] == 0xc0 && code[3] == 0x0f && code[4] == 0 &&
	    code[5] == 0 && code[6] == 0 && code[7] == 0x0f && code[8] == 0x05)
		return step_over_signal(st);
	return step_by_frame_pointer(st);
}

/* The canonical frame address. Returns an outcome when there is none. */
static __always_inline __u32 find_cfa(struct unwind_state *st, const struct unwind_rule *rule,
				      __u64 *cfa)
{
	__u64 base = st->sp;
	__u64 offset = (__u64)(__s64)rule->cfa_offset;

	switch (rule->cfa) {
	case UNWIND_CFA_SP:
	case UNWIND_CFA_SP_DEREF:
		break;
	case UNWIND_CFA_FP:
	case UNWIND_CFA_FP_DEREF:
		if (!st->fp_known)
			return UNWIND_BAD_CFA;
		base = st->fp;
		break;
	case UNWIND_CFA_REGISTER:
		if (!st->registers_known)
			return UNWIND_UNSUPPORTED_RULE;
		if (rule->cfa_register >= sizeof(st->registers) / sizeof(__u64))
			return UNWIND_UNSUPPORTED_RULE;
		base = ((__u64 *)&st->registers)[rule->cfa_register];
		break;
	case UNWIND_CFA_PLT:
		offset = 8 + ((st->pc & 15) >= rule->cfa_register ? 8 : 0);
		break;
	default:
		return UNWIND_UNSUPPORTED_RULE;
	}
	*cfa = base + offset;
	if (rule->cfa == UNWIND_CFA_SP_DEREF || rule->cfa == UNWIND_CFA_FP_DEREF) {
		if (bpf_probe_read_user(cfa, sizeof(*cfa), (void *)(base + offset)))
			return UNWIND_STACK_UNREADABLE;
		*cfa += (__u64)(__s64)rule->deref_add;
	}
	return UNWIND_RUNNING;
}

static __always_inline int step_by_rule(struct unwind_state *st, const struct unwind_rule *rule)
{
	/* The caller's frame pointer, the return address: mostly neighbours, read at once. */
	__u64 saved[2];
	__u64 cfa = 0;
	__u32 outcome = find_cfa(st, rule, &cfa);

	if (outcome)
		return stop(st, outcome);
	if (cfa <= st->sp)
		return stop(st, UNWIND_BAD_CFA);
	if (rule->fp == UNWIND_FP_AT_CFA && rule->fp_offset == rule->ra_offset - 8) {
		if (bpf_probe_read_user(saved, sizeof(saved), (void *)(cfa + rule->fp_offset)))
			return stop(st, UNWIND_STACK_UNREADABLE);
		st->fp = saved[0];
		st->fp_known = 1;
	} else {
		__u64 base = rule->fp == UNWIND_FP_AT_FP ? st->fp : cfa;

		if (rule->fp >= UNWIND_FP_UNDEFINED ||
		    (rule->fp == UNWIND_FP_AT_FP && !st->fp_known)) {
			st->fp_known = 0;
		} else if (rule->fp != UNWIND_FP_SAME) {
			if (bpf_probe_read_user(&st->fp, sizeof(st->fp),
						(void *)(base + rule->fp_offset)))
				return stop(st, UNWIND_STACK_UNREADABLE);
			st->fp_known = 1;
		}
		if (bpf_probe_read_user(&saved[1], sizeof(saved[1]),
					(void *)(cfa + rule->ra_offset)))
			return stop(st, UNWIND_STACK_UNREADABLE);
	}
	st->exact = 0;
	st->through_fp = 0;
	return enter_caller(st, saved[1], cfa);
}

static __always_inline int apply_rule(struct unwind_state *st, const struct unwind_rule *rule)
{
	if (rule->cfa == UNWIND_CFA_STOP)
		return stop(st, UNWIND_ROOTED);
	if (rule->cfa == UNWIND_CFA_SIGNAL)
		return step_over_signal(st);
	return step_by_rule(st, rule);
}

/* From one frame to its caller. Returns 1 when the walk has ended, with its outcome set. */
__noinline int unwind_step(struct unwind_state *st)
{
	const struct unwind_rule *rule;
	__u64 lookup_pc;
	__u32 table_index;
	void *table;

	if (!st)
		return 1;
	/* A call can be its function's last instruction: the return address may be the next one's. */
	lookup_pc = st->pc - !st->exact;
	rule = find_known_rule(st, lookup_pc);
	if (rule)
		return apply_rule(st, rule);
	if (!find_mapping(st, lookup_pc)) {
		/* A frame pointer that led nowhere was none. */
		if (st->through_fp) {
			st->count--;
			return stop(st, UNWIND_BAD_FRAME_POINTER);
		}
		return stop(st, UNWIND_UNMAPPED);
	}
	if (st->mapping.kind != UNWIND_MAPPING_TABLE)
		return step_by_frame_pointer(st);
	table_index = st->mapping.table;
	table = bpf_map_lookup_elem(&unwind_tables, &table_index);
	if (!table || !load_header(st, table))
		return stop(st, UNWIND_NO_TABLE);
	rule = find_rule(st, table, lookup_pc - st->mapping.bias);
	if (!rule || rule->cfa == UNWIND_CFA_NONE)
		return step_without_rule(st);
	remember_rule(st, lookup_pc, rule);
	return apply_rule(st, rule);
}

/* ---- the walk ---- */

/* The user registers of the current task: the sample's own when it hit in user mode, else those
 * that the entry into the kernel saved. */
static __always_inline __u32 user_registers(struct bpf_perf_event_data *ctx,
					    struct unwind_state *st)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs = &st->registers;
	__u32 flags = 0;

	if (is_user_mode(&ctx->regs)) {
		*regs = ctx->regs;
	} else {
		core_read(&flags, &task->flags);
		if (flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER))
			return UNWIND_NO_USER;
		if (bpf_probe_read_kernel(regs, sizeof(*regs),
					  (void *)bpf_task_pt_regs(bpf_get_current_task_btf())))
			return UNWIND_NO_USER;
		/* Behind a system call (-1: none) may be the next function, as for the C
		 * library's sigreturn. */
		if ((long)regs->orig_ax >= 0)
			regs->ip--;
	}
	st->pc = regs->ip;
	st->sp = regs->sp;
	st->fp = regs->bp;
	/* The selector is 16 bits; newer kernels keep more beside it. */
	if ((regs->cs & 0xffff) == USER32_CS)
		return UNWIND_COMPAT;
	return st->pc ? UNWIND_RUNNING : UNWIND_NO_USER;
}

/* Walks the current task's user stack into `st->addresses`, leaf first. `st->outcome` says how
 * it ended; whatever it was, `st->count` addresses are good. */
static __always_inline void unwind_user(struct bpf_perf_event_data *ctx, struct unwind_state *st)
{
	st->count = 0;
	st->hash = 0;
	st->exact = 1;
	st->registers_known = 1;
	st->fp_known = 1;
	st->through_fp = 0;
	st->outcome = user_registers(ctx, st);
	if (st->outcome == UNWIND_NO_USER)
		return;
	st->addresses[0] = st->pc;
	st->count = 1;
	st->hash = hash_word(0, st->pc);
	if (st->outcome)
		return;
	if (!find_process(st)) {
		st->outcome = UNWIND_UNKNOWN_PROCESS;
		return;
	}
	/* One turn more than there is room: the last one finds out whether the stack ends there. */
	for (int frame = 0; frame < UNWIND_FRAMES_MAX; frame++)
		if (unwind_step(st))
			return;
	if (!st->outcome)
		st->outcome = UNWIND_TOO_DEEP;
}
