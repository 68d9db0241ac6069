//! From addresses to names: every unique (module, offset) once, in parallel.

pub mod modules;
pub mod perf_map;

use std::collections::HashMap;
use std::sync::Arc;

use crate::profile::model::Frame;
use modules::ModuleId;
use perf_map::PerfMapOwner;

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
}
