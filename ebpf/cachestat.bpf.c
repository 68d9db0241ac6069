// SPDX-License-Identifier: GPL-2.0
/* Page-cache accesses, misses and dirtied pages, in pages.
 *
 * Accesses are the pages that reads ask for and the faults on mapped files; misses are the pages
 * that come into the cache while a task reads or faults, so that neither a write's new pages nor
 * readahead(2) count. A read goes through the cache in several steps and its later steps must not
 * count again: the task's number of finished reads (and of finished faults) tells whether it is
 * still the same one. */
#include "filter.h"
#include "tally.h"

#define PAGE_SHIFT 12

/* What a tally's id means. The other side is src/tools/cachestat.rs. */
enum { ACCESSES = 1, MISSES = 2, DIRTIES = 3 };

struct inode {
	__s64 i_size;
} __core;

struct address_space {
	struct inode *host;
} __core;

struct task_io_accounting {
	__u64 syscr;
	__u64 syscw;
} __core;

struct task_struct___accounting {
	unsigned long min_flt;
	unsigned long maj_flt;
	struct task_io_accounting ioac;
} __core;

struct page;

struct folio {
	/* 6.6 and later: the lowest byte is the order. */
	unsigned long _flags_1;
} __core;

struct folio___before_6_6 {
	unsigned char _folio_order;
} __core;

enum pageflags { PG_head = 6 };

struct request {
	/* The read: which one, of what, up to where. */
	__u64 reads_done;
	__u64 mapping;
	__u64 last;
	/* The fault. */
	__u64 faults_done;
	/* Pages that came in before it was known what for: a read tells only when it has its pages.
	 * A write never tells; it ends, and the pages are then nobody's misses. */
	__u64 pending_pages;
	__u64 pending_reads_done;
	__u64 pending_writes_done;
	bool reading;
	bool faulting;
	bool mapping_around;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct request);
} requests SEC(".maps");

static __always_inline void count_pages(__u32 what, __u64 pages)
{
	struct report_key key = {.id = what};
	add_to_tally(&key, pages, 0, 0);
}

static __always_inline __u64 reads_done(void)
{
	struct task_struct___accounting *task = (void *)bpf_get_current_task();
	__u64 reads = 0;
	core_read(&reads, &task->ioac.syscr);
	return reads;
}

static __always_inline __u64 writes_done(void)
{
	struct task_struct___accounting *task = (void *)bpf_get_current_task();
	__u64 writes = 0;
	core_read(&writes, &task->ioac.syscw);
	return writes;
}

static __always_inline __u64 faults_done(void)
{
	struct task_struct___accounting *task = (void *)bpf_get_current_task();
	unsigned long minor = 0, major = 0;
	core_read(&minor, &task->min_flt);
	core_read(&major, &task->maj_flt);
	return minor + major;
}

static __always_inline struct request *request_of_current(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct request *request = bpf_map_lookup_elem(&requests, &tid);
	if (request)
		return request;
	const struct request empty = {};
	bpf_map_update_elem(&requests, &tid, &empty, BPF_NOEXIST);
	request = bpf_map_lookup_elem(&requests, &tid);
	if (!request)
		count_loss(start_map_full);
	return request;
}

static __always_inline bool pending_is_of_now(const struct request *request)
{
	return request->pending_reads_done == reads_done() &&
	       request->pending_writes_done == writes_done();
}

static __always_inline void settle_pending(struct request *request)
{
	if (request->pending_pages && pending_is_of_now(request))
		count_pages(MISSES, request->pending_pages);
	request->pending_pages = 0;
}

/* A read wants pages index to last. */
static __always_inline void read_pages(const struct address_space *mapping, __u64 index, __u64 last)
{
	struct request *request = request_of_current();
	if (!request)
		return;
	settle_pending(request);
	__u64 reads = reads_done();
	bool same = request->reading && request->reads_done == reads &&
		    request->mapping == (__u64)mapping && request->last == last;
	if (same)
		return;
	request->reading = true;
	request->reads_done = reads;
	request->mapping = (__u64)mapping;
	request->last = last;
	/* A read may ask for more than the file has. */
	struct inode *host = NULL;
	__s64 size = 0;
	core_read(&host, &mapping->host);
	core_read(&size, &host->i_size);
	__u64 pages_end = ((__u64)size + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT;
	if (last >= pages_end)
		last = pages_end - 1;
	if (pages_end && index <= last)
		count_pages(ACCESSES, last - index + 1);
}

/* mm_filemap_get_pages(mapping, index, last): 6.12 and later. */
SEC("tp_btf/mm_filemap_get_pages")
int get_pages(__u64 *args)
{
	if (current_wanted())
		read_pages((void *)args[0], args[1], args[2]);
	return 0;
}

/* mm_filemap_map_pages(mapping, first, last): 6.12 and later. A fault tries this before
 * mm_filemap_fault, so one that follows is the same access. */
SEC("tp_btf/mm_filemap_map_pages")
int map_pages(void)
{
	if (!current_wanted())
		return 0;
	struct request *request = request_of_current();
	if (!request)
		return 0;
	request->mapping_around = true;
	request->faults_done = faults_done();
	count_pages(ACCESSES, 1);
	return 0;
}

static __always_inline int count_fault(void)
{
	if (!current_wanted())
		return 0;
	struct request *request = request_of_current();
	if (!request)
		return 0;
	__u64 faults = faults_done();
	/* A fault that waited for the disk is tried again. */
	bool same = (request->mapping_around || request->faulting) &&
		    request->faults_done == faults;
	request->faulting = true;
	request->mapping_around = false;
	request->faults_done = faults;
	if (!same)
		count_pages(ACCESSES, 1);
	return 0;
}

/* mm_filemap_fault(mapping, index): 6.12 and later. */
SEC("tp_btf/mm_filemap_fault")
int fault(void)
{
	return count_fault();
}

static __always_inline __u64 pages_of(const struct folio *folio)
{
	unsigned long flags = 0, order = 0;
	/* The flags are the first word of struct page and of struct folio, whatever their type. */
	bpf_probe_read_kernel(&flags, sizeof(flags), folio);
	__u64 head = __builtin_preserve_enum_value(*(enum pageflags *)PG_head, 1);
	if (!(flags >> head & 1))
		return 1;
	const struct folio___before_6_6 *older = (const void *)folio;
	if (core_field_exists(folio->_flags_1)) {
		core_read(&order, &folio->_flags_1);
	} else if (core_field_exists(older->_folio_order)) {
		unsigned char byte = 0;
		core_read(&byte, &older->_folio_order);
		order = byte;
	}
	return 1ULL << (order & 31);
}

/* mm_filemap_add_to_page_cache(folio): 5.16 and later; a page before. */
SEC("tp_btf/mm_filemap_add_to_page_cache")
int add_to_page_cache(__u64 *args)
{
	if (!current_wanted())
		return 0;
	struct request *request = request_of_current();
	if (!request)
		return 0;
	__u64 pages = pages_of((void *)args[0]);
	bool in_read = request->reading && request->reads_done == reads_done();
	bool in_fault = request->faulting && request->faults_done == faults_done();
	if (in_read || in_fault) {
		count_pages(MISSES, pages);
		return 0;
	}
	if (!pending_is_of_now(request)) {
		request->pending_pages = 0;
		request->pending_reads_done = reads_done();
		request->pending_writes_done = writes_done();
	}
	request->pending_pages += pages;
	return 0;
}

/* writeback_dirty_folio(folio, mapping): 5.18 and later. */
SEC("tp_btf/writeback_dirty_folio")
int dirty_folio(__u64 *args)
{
	if (current_wanted())
		count_pages(DIRTIES, pages_of((void *)args[0]));
	return 0;
}

/* writeback_dirty_page(page, mapping): before; page or folio by the release. */
SEC("tp_btf/writeback_dirty_page")
int dirty_page(void)
{
	if (current_wanted())
		count_pages(DIRTIES, 1);
	return 0;
}

struct kiocb {
	struct file *ki_filp;
	__s64 ki_pos;
} __core;

struct file {
	struct address_space *f_mapping;
} __core;

struct iov_iter {
	unsigned long count;
} __core;

/* filemap_read(iocb, iter, already_read): 5.12 and later; generic_file_buffered_read(…) before.
 * One call is one read. */
static __always_inline int read_by_function(struct pt_regs *regs)
{
	struct kiocb *iocb = (void *)regs->di;
	struct iov_iter *iter = (void *)regs->si;
	struct file *file = NULL;
	struct address_space *mapping = NULL;
	__s64 position = 0;
	unsigned long bytes = 0;
	if (!current_wanted())
		return 0;
	core_read(&file, &iocb->ki_filp);
	core_read(&mapping, &file->f_mapping);
	core_read(&position, &iocb->ki_pos);
	core_read(&bytes, &iter->count);
	if (bytes && position >= 0)
		read_pages(mapping, position >> PAGE_SHIFT, (position + bytes - 1) >> PAGE_SHIFT);
	return 0;
}

SEC("kprobe")
int filemap_read(struct pt_regs *regs)
{
	return read_by_function(regs);
}

/* filemap_fault(vmf): 5.10 to 7.2. */
SEC("kprobe")
int filemap_fault(void)
{
	return count_fault();
}

char LICENSE[] SEC("license") = "GPL";
