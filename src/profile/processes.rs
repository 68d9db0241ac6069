//! Which file was mapped where, in which process, and when.

use std::sync::Arc;

use crate::symbolize::modules::ModuleId;
use crate::symbolize::perf_map::PerfMapOwner;

/// What one user address of one process belonged to when it was sampled.
#[derive(Debug, Clone)]
pub enum Location {
    /// Code of a file (or the vDSO, a module of its own).
    File {
        /// The file.
        module: ModuleId,
        /// Offset into the file: `address - mapping start + mapping's file offset`.
        file_offset: u64,
    },
    /// Executable memory without a file: a JIT's. The address itself is what a perf map names.
    Anonymous {
        /// The process whose perf map may know the address.
        owner: Arc<PerfMapOwner>,
    },
    /// No known executable mapping held this address at that time.
    Unmapped,
}
