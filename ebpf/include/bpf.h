/* SPDX-License-Identifier: GPL-2.0 */
/* The little of <linux/bpf.h> and libbpf's bpf_helpers.h that the programs here need, so that an
 * object depends on clang alone and builds the same everywhere. Numbers are kernel UAPI:
 * include/uapi/linux/bpf.h. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
/* CO-RE: the kernel's own offsets are filled in at load time. */
#define __core __attribute__((preserve_access_index))

/* A map's definition, read by the loader from BTF. */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_STACK_TRACE = 7,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_HASH_OF_MAPS = 13,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};

#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_USER_STACK (1ULL << 8)
#define BPF_F_INNER_MAP (1U << 12)
#define BPF_RB_NO_WAKEUP (1ULL << 0)
#define BPF_RB_FORCE_WAKEUP (1ULL << 1)

#define EPERM 1
#define E2BIG 7
#define EFAULT 14
#define EBUSY 16
#define EEXIST 17

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_tail_call)(void *ctx, void *prog_array, __u32 index) = (void *)12;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_get_current_comm)(void *buffer, __u32 size) = (void *)16;
static long (*const bpf_get_stackid)(void *ctx, void *map, __u64 flags) = (void *)27;
static __u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_get_stack)(void *ctx, void *buffer, __u32 size, __u64 flags) = (void *)67;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_probe_read_user)(void *dst, __u32 size, const void *src) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size,
					__u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static long (*const bpf_task_pt_regs)(void *task) = (void *)175;
static long (*const bpf_loop)(__u32 iterations, void *callback, void *context,
			      __u64 flags) = (void *)181;

/* One field, through one pointer, at the kernel's own offset. Chains are written out step by
 * step, so that each unreadable pointer is seen. */
#define core_read(dst, src) \
	bpf_probe_read_kernel((dst), sizeof(*(dst)), __builtin_preserve_access_index(src))
#define core_field_exists(field) __builtin_preserve_field_info(field, 2)

static __u64 (*const bpf_get_attach_cookie)(void *ctx) = (void *)174;

/* One bit field, through one pointer, at the kernel's own place. Kinds are those of
 * enum bpf_field_info_kind: byte offset, byte size, left and right shift. */
#define core_read_bitfield(pointer, field)                                                        \
	({                                                                                        \
		__u64 bits = 0;                                                                   \
		bpf_probe_read_kernel(&bits, __builtin_preserve_field_info((pointer)->field, 1),  \
				      (const void *)(pointer) +                                   \
					      __builtin_preserve_field_info((pointer)->field, 0)); \
		bits <<= __builtin_preserve_field_info((pointer)->field, 4);                      \
		bits >> __builtin_preserve_field_info((pointer)->field, 5);                       \
	})
