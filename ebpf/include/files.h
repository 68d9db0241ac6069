/* SPDX-License-Identifier: GPL-2.0 */
/* From a descriptor to its file. */
#pragma once
#include "kernel.h"

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFSOCK 0140000

struct inode {
	unsigned short i_mode;
} __core;

struct file {
	struct inode *f_inode;
	void *private_data;
} __core;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} __core;

struct files_struct {
	struct fdtable *fdt;
} __core;

struct task_struct___files {
	struct files_struct *files;
} __core;

/* The current task's open file, or NULL. */
static __always_inline struct file *file_of_descriptor(__u32 descriptor)
{
	struct task_struct___files *task = (void *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **slots = NULL, *file = NULL;
	unsigned int max_fds = 0;
	core_read(&files, &task->files);
	core_read(&table, &files->fdt);
	core_read(&max_fds, &table->max_fds);
	if (descriptor >= max_fds)
		return NULL;
	core_read(&slots, &table->fd);
	bpf_probe_read_kernel(&file, sizeof(file), slots + descriptor);
	return file;
}

static __always_inline bool file_is(struct file *file, __u32 kind)
{
	struct inode *inode = NULL;
	unsigned short mode = 0;
	if (!file)
		return false;
	core_read(&inode, &file->f_inode);
	core_read(&mode, &inode->i_mode);
	return (mode & S_IFMT) == kind;
}
