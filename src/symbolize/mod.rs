//! From addresses to names: every unique (module, offset) once, in parallel.

pub mod debug_files;
mod driver;
mod dwarf_nesting;
pub mod elf;
pub mod elf_names;
pub mod functions;
mod kallsyms;
pub mod kernel;
pub mod kernel_text;
pub mod modules;
pub mod names;
pub mod perf_map;
mod plt;
pub mod rooted;
pub mod stable_file;
mod trust;
pub mod unpacked;

use std::collections::HashMap;
use std::sync::Arc;

use crate::profile::model::Frame;
use modules::ModuleId;
use perf_map::PerfMapOwner;

pub use driver::{Options, symbolize};

/// The addresses of one profile, each unique one once.
#[derive(Debug, Default)]
pub struct Queries {
    /// Kernel addresses.
    pub kernel: Vec<u64>,
    /// File offsets by module.
    pub files: HashMap<ModuleId, Vec<u64>>,
    /// Addresses in anonymous executable memory, by process.
    pub anonymous: Vec<(Arc<PerfMapOwner>, Vec<u64>)>,
}

/// Names for [`Queries`]. Each value is outermost first: the function, then what is inlined in it.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By kernel address.
    pub kernel: HashMap<u64, Box<[Frame]>>,
    /// By module and file offset.
    pub files: HashMap<(ModuleId, u64), Box<[Frame]>>,
    /// By process (`PerfMapOwner::id`) and address.
    pub anonymous: HashMap<(u32, u64), Box<[Frame]>>,
    /// Why kernel addresses have no name, and the remedy; `None` when the kernel told its
    /// symbols.
    pub kernel_problem: Option<String>,
    /// Why some addresses of a module have no name, and what would help.
    pub file_problems: HashMap<ModuleId, String>,
    /// Why some anonymous memory of a process (`PerfMapOwner::id`) has no names, and what would
    /// help.
    pub anonymous_problems: HashMap<u32, String>,
}
