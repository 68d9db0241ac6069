//! Names every address of a profile, on all CPUs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::cache::CacheFolder;
use crate::profile::model::{Frame, FrameKind};

use super::debug_files::DEFAULT_DEBUG_DIR;
use super::elf_names::{ElfNames, NamedOffsets};
use super::kernel::{self, KernelNames};
use super::kernel_text::KernelText;
use super::modules::{Module, ModuleId};
use super::names;
use super::perf_map::PerfMapOwner;
use super::{Queries, Symbols};

/// A module with at least so many addresses is split among the workers. Each of them parses the
/// file again, so fewer do not pay.
const SPLIT_ADDRESSES_MIN: usize = 8192;

/// How names are looked up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Read DWARF and show inlined functions as frames of their own.
    pub inline: bool,
    /// Directories with separate debug files, below the root of the process and below ours.
    pub debug_dirs: Vec<PathBuf>,
    /// Where unpacked debug files are kept, see [`super::unpacked`].
    pub unpacked: Option<Arc<CacheFolder>>,
    /// The kernel's own functions, where they were read before.
    pub kernel_text: Option<Arc<KernelText>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inline: true,
            debug_dirs: vec![DEFAULT_DEBUG_DIR.into()],
            unpacked: None,
            kernel_text: None,
        }
    }
}

/// A module that is opened by the first worker who needs it.
struct SharedModule<'a> {
    id: ModuleId,
    module: &'a Module,
    opened: OnceLock<Result<ElfNames, String>>,
}

/// A piece of work for one thread.
enum Job<'a> {
    Kernel(Vec<u64>),
    Module(Arc<SharedModule<'a>>, Vec<u64>),
    PerfMap(&'a PerfMapOwner, Vec<u64>),
}

/// What came out of one [`Job`].
enum Outcome {
    Kernel(KernelNames),
    Module(ModuleId, NamedOffsets, Option<String>),
    PerfMap(u32, Vec<(u64, Box<[Frame]>)>, Option<String>),
}

/// Names all addresses in `queries`; every one of them has an entry in the result.
///
/// Offsets are of file contents; return addresses must have been decremented before.
#[must_use]
pub fn symbolize<'a>(
    queries: &'a Queries,
    modules: impl Fn(ModuleId) -> &'a Module,
    options: &Options,
) -> Symbols {
    // A bridge hands jobs out in their order: the largest first, so that no worker is left
    // with the longest at the end.
    let outcomes: Vec<Outcome> = jobs(queries, modules)
        .into_iter()
        .par_bridge()
        .map(|job| job.run(options))
        .collect();
    let mut symbols = Symbols::default();
    for outcome in outcomes {
        match outcome {
            Outcome::Kernel(kernel) => {
                symbols.kernel = kernel.frames;
                symbols.kernel_problem = kernel.problem;
            }
            Outcome::Module(id, named, problem) => {
                let named = named.frames.into_iter();
                symbols
                    .files
                    .extend(named.map(|(offset, frames)| ((id, offset), frames)));
                symbols
                    .file_problems
                    .extend(problem.map(|problem| (id, problem)));
            }
            Outcome::PerfMap(id, addresses, problem) => {
                let named = addresses.into_iter();
                symbols
                    .anonymous
                    .extend(named.map(|(address, frames)| ((id, address), frames)));
                symbols
                    .anonymous_problems
                    .extend(problem.map(|problem| (id, problem)));
            }
        }
    }
    symbols
}

/// All work, the most expensive first.
fn jobs<'a>(queries: &'a Queries, modules: impl Fn(ModuleId) -> &'a Module) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    let threads = rayon::current_num_threads();
    for (id, offsets) in &queries.files {
        let offsets = sorted_unique(offsets);
        let module = modules(*id);
        let file_bytes = module.file.as_ref().and_then(|file| file.metadata().ok());
        let file_bytes = file_bytes.map_or(0, |metadata| metadata.len());
        let opening = Arc::new(SharedModule {
            id: *id,
            module,
            opened: OnceLock::new(),
        });
        let parts = if offsets.len() < SPLIT_ADDRESSES_MIN {
            1
        } else {
            threads
        };
        for part in offsets.chunks(offsets.len().div_ceil(parts).max(1)) {
            // Opening a file is work that grows with it; 64 KiB are about one address.
            let cost = part.len() as u64 + (file_bytes >> 16);
            jobs.push((cost, Job::Module(Arc::clone(&opening), part.to_vec())));
        }
    }
    for (owner, addresses) in &queries.anonymous {
        let addresses = sorted_unique(addresses);
        jobs.push((addresses.len() as u64, Job::PerfMap(owner, addresses)));
    }
    let kernel = sorted_unique(&queries.kernel);
    if !kernel.is_empty() {
        // A pass over kallsyms takes tens of milliseconds, however few the addresses are.
        jobs.push((10_000, Job::Kernel(kernel)));
    }
    jobs.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
    jobs.into_iter().map(|(_, job)| job).collect()
}

fn sorted_unique(addresses: &[u64]) -> Vec<u64> {
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl Job<'_> {
    fn run(self, options: &Options) -> Outcome {
        match self {
            Self::Kernel(addresses) => Outcome::Kernel(kernel::name_kernel(
                &addresses,
                options.kernel_text.as_deref(),
            )),
            Self::Module(shared, offsets) => shared.name(&offsets, options),
            Self::PerfMap(owner, addresses) => name_anonymous(owner, &addresses),
        }
    }
}

impl SharedModule<'_> {
    fn name(&self, offsets: &[u64], options: &Options) -> Outcome {
        let opened = self
            .opened
            .get_or_init(|| ElfNames::open(self.module, options));
        match opened {
            Ok(elf) => {
                let named = elf.name(offsets);
                let problem = (named.unnamed > 0).then(|| elf.remedy());
                Outcome::Module(self.id, named, problem)
            }
            Err(problem) => Outcome::Module(
                self.id,
                unnamed(&self.module.path, offsets),
                Some(problem.clone()),
            ),
        }
    }
}

/// What is said of a file that cannot be read: the module and the offset in it.
fn unnamed(path: &Path, offsets: &[u64]) -> NamedOffsets {
    let frame = |offset| Frame {
        name: names::unnamed(path, offset),
        kind: FrameKind::Unknown,
    };
    let frames = offsets
        .iter()
        .map(|offset| (*offset, [frame(*offset)].into()))
        .collect();
    NamedOffsets {
        frames,
        unnamed: offsets.len() as u64,
    }
}

/// Names of a JIT compiler's code.
fn name_anonymous(owner: &PerfMapOwner, addresses: &[u64]) -> Outcome {
    let (names, error) = match owner.names(addresses) {
        Ok(names) => (names, None),
        Err(error) => (vec![None; addresses.len()], Some(error)),
    };
    let any_missing = names.iter().any(Option::is_none);
    let frame = |name: Option<std::rc::Rc<str>>| match name {
        Some(name) => Frame {
            name: (*name).into(),
            kind: FrameKind::Jit,
        },
        None => Frame {
            name: "[unknown]".into(),
            kind: FrameKind::Unknown,
        },
    };
    let frames = addresses
        .iter()
        .zip(names)
        .map(|(address, name)| (*address, [frame(name)].into()));
    let path = owner.map_path();
    let problem = match error {
        Some(error) => Some(format!(
            "code of a JIT compiler without a perf map ({}: {error}): start node with \
             --perf-basic-prof, Python with -X perf; for a JVM run `jcmd {} Compiler.perfmap`",
            path.display(),
            owner.tgid
        )),
        None => any_missing.then(|| {
            format!(
                "code that {} does not name: it was written after the code ran, or \
                     the runtime names only part of its code",
                path.display()
            )
        }),
    };
    Outcome::PerfMap(owner.id, frames.collect(), problem)
}
