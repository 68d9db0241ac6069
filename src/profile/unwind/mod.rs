//! Unwinding user stacks by `.eh_frame`, in BPF, with nothing to recompile.
//!
//! [`elf`] finds a module's call frame information, [`table`] compiles it into one flat run of
//! words, [`cache`] keeps that on disk, [`maps`] puts it and the processes' mappings where the
//! kernel side (`ebpf/include/unwind.h`) looks them up; [`walk`] is that walk in user space, over
//! a captured stack.

pub mod abi;
pub mod cache;
pub mod elf;
pub mod maps;
mod raw_map;
pub mod rule;
mod runs;
pub mod table;
pub mod vdso;
pub mod walk;
