//! The files whose code was sampled, each held open from the moment it was first seen.
//!
//! A held file stays readable after it was deleted or replaced, and its inode number cannot be
//! given to another file, so (device, inode) identifies it for the rest of the run. A file that
//! could not be opened is told apart by its inode generation as well, where that is known.

mod open;
mod root;
pub mod vdso;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use root::Roots;

/// Descriptors left for everything that is not a module: outputs, perf events, BPF maps.
const FDS_RESERVED: usize = 512;

/// How often a file that could not be opened is tried again when it is seen again.
const OPEN_RETRIES_MAX: u8 = 8;

/// Most modules kept; what comes after shares one nameless module.
const MODULES_MAX: usize = 1 << 18;

/// Most files remembered that had the same inode number one after the other.
const SAME_INODE_MAX: usize = 64;

/// A module's place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// A file with executable mappings.
#[derive(Debug)]
pub struct Module {
    /// The path as the process saw it; untrusted, for display and for finding debug files.
    pub path: PathBuf,
    /// Device and inode of the mapped file.
    pub device_inode: (u64, u64),
    /// The very file that is mapped, opened through `map_files` or checked against
    /// `device_inode`; `None` when it could not be had.
    pub file: Option<File>,
    /// The root directory of a process that mapped it (`/proc/PID/root`, `O_PATH`): debug files
    /// of a container are looked for there. `None` for our own root.
    pub root: Option<Arc<OwnedFd>>,
}

/// One look at a mapped file: what `/proc/PID/maps` or an mmap record says of it.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    /// The process that has it mapped.
    pub pid: u32,
    /// The ancestors of that process, nearest first: when it is gone, its path is looked up
    /// below their roots.
    pub ancestors: &'a [u32],
    /// The mapping's addresses, start and end.
    pub range: (u64, u64),
    /// Device (as `stat` encodes it) and inode, as the mapping states them.
    pub device_inode: (u64, u64),
    /// The inode's generation, if known.
    pub generation: Option<u32>,
    /// The path as the process sees it, with ` (deleted)` if so marked.
    pub path: &'a [u8],
}

/// What a mapped file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappedFile {
    /// An ELF file, or one that could not be opened and is given the benefit of the doubt.
    Module(ModuleId),
    /// Anything else: memory shared through a file, where a JIT compiler puts its code.
    NotElf,
}

/// What is known of one inode that was seen mapped.
#[derive(Debug)]
struct Known {
    generation: Option<u32>,
    file: MappedFile,
    /// While an ELF file is open, its inode cannot become another file.
    held: bool,
    open_failures: u8,
}

/// All modules of a run.
#[derive(Debug)]
pub struct Modules {
    all: Vec<Module>,
    overflow: Option<ModuleId>,
    by_inode: HashMap<(u64, u64), Vec<Known>>,
    special: HashMap<&'static str, ModuleId>,
    vdsos: Vec<(Vec<u8>, ModuleId)>,
    own_vdso: Option<ModuleId>,
    roots: Roots,
    files_held: usize,
    files_held_max: usize,
    out_of_fds: u64,
}

impl Default for Modules {
    fn default() -> Self {
        Self::new()
    }
}

impl Modules {
    /// An empty store. Raises the process's soft limit of open files to the hard one, since
    /// every module costs a descriptor.
    #[must_use]
    pub fn new() -> Self {
        Self::with_files_held_max(raise_fd_limit().saturating_sub(FDS_RESERVED))
    }

    fn with_files_held_max(files_held_max: usize) -> Self {
        Self {
            all: Vec::new(),
            overflow: None,
            by_inode: HashMap::new(),
            special: HashMap::new(),
            vdsos: Vec::new(),
            own_vdso: None,
            roots: Roots::new(),
            files_held: 0,
            files_held_max,
            out_of_fds: 0,
        }
    }

    /// The module behind an id of this store.
    #[must_use]
    pub fn get(&self, id: ModuleId) -> &Module {
        &self.all[id.0 as usize]
    }

    /// All modules; [`ModuleId`] is the position.
    #[must_use]
    pub fn as_slice(&self) -> &[Module] {
        &self.all
    }

    /// How often a file was not held open for want of file descriptors (`ulimit -n`).
    #[must_use]
    pub fn out_of_fds(&self) -> u64 {
        self.out_of_fds
    }

    /// Asks for a descriptor to hold for the rest of the run, out of the modules' share.
    pub fn reserve_fd(&mut self) -> bool {
        let free = self.files_held < self.files_held_max;
        if free {
            self.files_held += 1;
        } else {
            self.out_of_fds += 1;
        }
        free
    }

    /// The module of a mapped file; opens it when it is seen for the first time.
    pub fn intern(&mut self, sighting: &Sighting) -> MappedFile {
        let known = self.by_inode.get(&sighting.device_inode).and_then(|known| {
            known
                .iter()
                .rposition(|known| known.is_same_file(sighting, &self.all))
        });
        match known {
            Some(position) => self.intern_again(sighting, position),
            None => self.intern_new(sighting),
        }
    }

    fn intern_new(&mut self, sighting: &Sighting) -> MappedFile {
        let opened = self.open(sighting);
        let generation = sighting
            .generation
            .or(opened.as_ref().and_then(|opened| opened.generation));
        let file = match &opened {
            Some(opened) if !is_elf(&opened.file) => MappedFile::NotElf,
            // Never an ELF file on disk, as far as one can tell without opening it.
            None if is_memory_name(sighting.path) => MappedFile::NotElf,
            _ => {
                let module = Module {
                    path: display_path(sighting.path),
                    device_inode: sighting.device_inode,
                    file: None,
                    root: None,
                };
                MappedFile::Module(self.push(module))
            }
        };
        let held = opened.is_some() && file != MappedFile::NotElf;
        if let (MappedFile::Module(id), Some(opened)) = (file, opened) {
            self.hold(id, opened);
        }
        let known = Known {
            generation,
            file,
            held,
            open_failures: u8::from(!held),
        };
        self.remember(sighting.device_inode, known);
        file
    }

    fn remember(&mut self, device_inode: (u64, u64), known: Known) {
        if self.by_inode.len() >= MODULES_MAX {
            return;
        }
        let all = self.by_inode.entry(device_inode).or_default();
        all.retain(|older| older.file != MappedFile::NotElf);
        if all.len() >= SAME_INODE_MAX {
            all.remove(0);
        }
        all.push(known);
    }

    /// Seen before; if it could not be opened then, it perhaps can now.
    fn intern_again(&mut self, sighting: &Sighting, position: usize) -> MappedFile {
        let Some(known) = self
            .by_inode
            .get_mut(&sighting.device_inode)
            .and_then(|known| known.get_mut(position))
        else {
            return MappedFile::NotElf;
        };
        let file = known.file;
        let MappedFile::Module(id) = file else {
            return file;
        };
        if known.held || known.open_failures >= OPEN_RETRIES_MAX {
            return file;
        }
        known.open_failures += 1;
        // The generation settles that it is still the file of the first sighting.
        if known.generation.is_none() || known.generation != sighting.generation {
            return file;
        }
        if let Some(opened) = self.open(sighting).filter(|opened| is_elf(&opened.file)) {
            if let Some(known) = self
                .by_inode
                .get_mut(&sighting.device_inode)
                .and_then(|all| all.get_mut(position))
            {
                known.held = true;
            }
            self.hold(id, opened);
        }
        file
    }

    fn open(&mut self, sighting: &Sighting) -> Option<open::Opened> {
        if self.files_held >= self.files_held_max {
            self.out_of_fds += 1;
            return None;
        }
        open::open_mapped(sighting).unwrap_or_else(|open::OutOfFds| {
            self.out_of_fds += 1;
            None
        })
    }

    fn hold(&mut self, id: ModuleId, opened: open::Opened) {
        if self.overflow == Some(id) {
            return;
        }
        self.files_held += 1;
        let root = opened.root_pid.and_then(|pid| self.roots.of_process(pid));
        let module = &mut self.all[id.0 as usize];
        module.file = Some(opened.file);
        module.root = root;
    }

    /// The vDSO that `pid` has mapped at `range`, as a readable ELF file of its own.
    pub fn vdso(&mut self, pid: u32, range: (u64, u64)) -> ModuleId {
        // The kernel maps one image into all processes of its own word size; those of 32-bit
        // processes, which live below 4 GiB, are read from the process.
        let foreign = u32::try_from(range.1).is_ok();
        if !foreign && let Some(id) = self.own_vdso {
            return id;
        }
        let image = if foreign {
            vdso::read(pid, range)
        } else {
            vdso::read_own()
        };
        let Some(image) = image else {
            return self.special("[vdso]");
        };
        let known = self
            .vdsos
            .iter()
            .find(|(bytes, _)| *bytes == image)
            .map(|(_, id)| *id);
        let id = known.unwrap_or_else(|| {
            let file = vdso::into_file(&image).ok();
            let path = PathBuf::from("[vdso]");
            let id = self.push(Module {
                path,
                device_inode: (0, 0),
                file,
                root: None,
            });
            self.vdsos.push((image, id));
            id
        });
        if !foreign {
            self.own_vdso = Some(id);
        }
        id
    }

    /// Whether a module is a vDSO.
    #[must_use]
    pub fn is_vdso(&self, id: ModuleId) -> bool {
        let module = self.get(id);
        module.device_inode == (0, 0) && module.path.as_os_str() == "[vdso]"
    }

    /// A region of the kernel's making without a file, such as `[vsyscall]`.
    pub fn special(&mut self, name: &'static str) -> ModuleId {
        if let Some(id) = self.special.get(name) {
            return *id;
        }
        let path = PathBuf::from(name);
        let id = self.push(Module {
            path,
            device_inode: (0, 0),
            file: None,
            root: None,
        });
        self.special.insert(name, id);
        id
    }

    fn push(&mut self, module: Module) -> ModuleId {
        if self.all.len() < MODULES_MAX {
            return self.append(module);
        }
        if let Some(id) = self.overflow {
            return id;
        }
        let path = PathBuf::from("[too many modules]");
        let id = self.append(Module {
            path,
            device_inode: (0, 0),
            file: None,
            root: None,
        });
        self.overflow = Some(id);
        id
    }

    fn append(&mut self, module: Module) -> ModuleId {
        self.all.push(module);
        ModuleId(self.all.len() as u32 - 1)
    }
}

impl Known {
    /// Whether a sighting with the same device and inode number is of this file.
    fn is_same_file(&self, sighting: &Sighting, modules: &[Module]) -> bool {
        if let (Some(mine), Some(theirs)) = (self.generation, sighting.generation) {
            return mine == theirs;
        }
        if self.held {
            return true;
        }
        match self.file {
            MappedFile::Module(id) => modules[id.0 as usize].path == display_path(sighting.path),
            MappedFile::NotElf => is_memory_name(sighting.path),
        }
    }
}

/// Whether a file starts with the ELF magic number. A file that cannot be read is none.
fn is_elf(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

/// Whether a path names memory that is shared through a file descriptor rather than a file.
fn is_memory_name(path: &[u8]) -> bool {
    let prefixes: [&[u8]; 4] = [b"/memfd:", b"/dev/zero", b"/SYSV", b"/anon_hugepage"];
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// The path without the kernel's mark for files that were deleted.
fn display_path(path: &[u8]) -> PathBuf {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

/// Raises the soft limit of open files to the hard one and returns what is now allowed.
fn raise_fd_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |count| count as usize)
}

#[cfg(test)]
mod tests;
