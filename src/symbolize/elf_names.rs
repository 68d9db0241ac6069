//! Names for the code of one ELF file: blazesym's answers, believed only where they hold.
//!
//! blazesym reads symbol tables, MiniDebugInfo and DWARF. What it does not decide, we do: which
//! file it reads (a separate debug file must belong to the module), whether a symbol without a
//! size reaches as far as the address, and what an address without a symbol is called.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer};

use crate::cache::CacheFolder;
use crate::profile::model::{Frame, FrameKind};

use super::debug_files::{self, DebugFile};
use super::driver::Options;
use super::elf::Image;
use super::functions::Functions;
use super::modules::Module;
use super::names;
use super::plt::{self, Slots};
use super::stable_file::StableFile;
use super::trust::{may_read_dwarf, may_read_symbols};
use super::unpacked::unpacked;

/// Addresses given to blazesym at once: its answers are held for so many.
const BATCH: usize = 4096;

/// Demangled names remembered per worker.
const REMEMBERED_NAMES_MAX: usize = 1 << 16;

/// One module opened for naming; shared by the workers that share its addresses.
#[derive(Debug)]
pub struct ElfNames {
    path: PathBuf,
    file: StableFile,
    image: Image,
    functions: Functions,
    debug: Option<DebugFile>,
    inline: bool,
    dwarf: Option<DwarfIn>,
    /// That file with its DWARF unpacked.
    unpacked: Option<StableFile>,
}

/// Which file's DWARF is read: one's, not both's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DwarfIn {
    Module,
    DebugFile,
}

/// One place where blazesym looks names up.
struct Place {
    source: Source<'static>,
    is_dwarf: bool,
}

/// Frames by file offset, and how many of them have no name.
#[derive(Debug, Default)]
pub struct NamedOffsets {
    /// In the order of the offsets asked for.
    pub frames: Vec<(u64, Box<[Frame]>)>,
    /// Offsets without a name.
    pub unnamed: u64,
}

impl ElfNames {
    /// Opens a module's file and looks for its debug file. The error says why its code stays
    /// without names, and what would help.
    pub fn open(module: &Module, options: &Options) -> Result<Self, String> {
        let held = module.file.as_ref().ok_or_else(|| {
            "the file could not be opened while it was mapped: run as root (CAP_SYS_PTRACE, \
             CAP_CHECKPOINT_RESTORE)"
                .to_owned()
        })?;
        let file = StableFile::of(held).map_err(|error| format!("cannot be read: {error}"))?;
        let image = Image::parse(file.data())
            .ok_or_else(|| "is no ELF file of this machine's byte order".to_owned())?;
        let complete = image.has_symtab && (image.has_dwarf || !options.inline);
        let debug = if complete {
            None
        } else {
            debug_files::find(module, &image, &options.debug_dirs)
        };
        let dwarf = if !options.inline {
            None
        } else if may_read_dwarf(&file, &image) {
            Some(DwarfIn::Module)
        } else {
            debug
                .as_ref()
                .filter(|debug| may_read_dwarf(&debug.file, &debug.image))
                .map(|_| DwarfIn::DebugFile)
        };
        let functions = Functions::default();
        let mut opened = Self {
            path: module.path.clone(),
            file,
            image,
            functions,
            debug,
            inline: options.inline,
            dwarf,
            unpacked: None,
        };
        opened.unpacked = options
            .unpacked
            .as_deref()
            .and_then(|folder| opened.unpack_dwarf(folder));
        Ok(opened)
    }

    /// The file whose DWARF is read, as it is on disk.
    fn with_dwarf(&self) -> Option<(&StableFile, &Image)> {
        match self.dwarf? {
            DwarfIn::Module => Some((&self.file, &self.image)),
            DwarfIn::DebugFile => self.debug_parts(),
        }
    }

    fn debug_parts(&self) -> Option<(&StableFile, &Image)> {
        self.debug.as_ref().map(|debug| (&debug.file, &debug.image))
    }

    fn unpack_dwarf(&self, folder: &CacheFolder) -> Option<StableFile> {
        let (file, _) = self
            .with_dwarf()
            .filter(|(file, image)| image.has_compressed && file.trusted())?;
        unpacked(file, folder).unwrap_or_else(|error| {
            tracing::debug!("not unpacked: {}: {error:#}", self.path.display());
            None
        })
    }

    /// Frames for sorted, unique file offsets. Each value is outermost first.
    #[must_use]
    pub fn name(&self, offsets: &[u64]) -> NamedOffsets {
        Worker::new(self).name(offsets)
    }

    /// The function around an address according to call frame information.
    fn function_around(&self, vaddr: u64) -> Option<Range<u64>> {
        self.functions.around(&self.image, self.file.data(), vaddr)
    }

    /// Why addresses of this file have no name, and what would help.
    #[must_use]
    pub fn remedy(&self) -> String {
        if self.image.is_go && !self.image.has_symtab {
            return "a stripped Go program: build it without `-ldflags=-s`".to_owned();
        }
        if self.image.has_symtab || self.debug.is_some() {
            return "code that no symbol covers: hand-written assembly, or generated by the linker"
                .to_owned();
        }
        let name = names::module_name(&self.path);
        let build_id = debug_files::hex(&self.image.build_id);
        if build_id.is_empty() {
            return format!("stripped, without a build id: build {name} without stripping it");
        }
        format!(
            "stripped: install the debug symbols of {name} (Debian: its -dbgsym package, Fedora: \
             `dnf debuginfo-install`), or put what `debuginfod-find debuginfo {build_id}` \
             downloads at /usr/lib/debug/.build-id/{}/{}.debug",
            build_id.get(..2).unwrap_or_default(),
            build_id.get(2..).unwrap_or_default(),
        )
    }

    /// The places to look in, best first.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let mut add = |file: &StableFile, is_dwarf| {
            let mut elf = Elf::new(file.path());
            elf.debug_syms = is_dwarf;
            places.push(Place {
                source: Source::Elf(elf),
                is_dwarf,
            });
        };
        let (own, debug) = ((&self.file, &self.image), self.debug_parts());
        if let Some((file, _)) = self.with_dwarf() {
            add(self.unpacked.as_ref().unwrap_or(file), true);
        }
        let tables = if self.image.has_symtab {
            [Some(own), debug]
        } else {
            [debug, Some(own)]
        };
        for (file, image) in tables.into_iter().flatten() {
            if may_read_symbols(file, image) {
                add(file, false);
            }
        }
        places
    }
}

/// One blazesym symbolizer (which no two threads may share) at work on one file.
struct Worker<'a> {
    elf: &'a ElfNames,
    symbolizer: Symbolizer,
    places: Vec<Place>,
    slots: OnceCell<Slots<'a>>,
    names: HashMap<Box<str>, Box<str>>,
    function_names: HashMap<u64, Box<str>>,
}

impl<'a> Worker<'a> {
    fn new(elf: &'a ElfNames) -> Self {
        Self {
            elf,
            symbolizer: Symbolizer::builder()
                .enable_auto_reload(false)
                .enable_code_info(elf.inline)
                .enable_inlined_fns(elf.inline)
                // We demangle ourselves, within bounds and each name once.
                .enable_demangling(false)
                .build(),
            places: elf.places(),
            slots: OnceCell::new(),
            names: HashMap::new(),
            function_names: HashMap::new(),
        }
    }

    fn name(mut self, offsets: &[u64]) -> NamedOffsets {
        let mut named = NamedOffsets::default();
        for batch in offsets.chunks(BATCH) {
            let vaddrs: Vec<Option<u64>> = batch
                .iter()
                .map(|offset| self.elf.image.vaddr(*offset))
                .collect();
            let mut known: Vec<u64> = vaddrs.iter().copied().flatten().collect();
            known.sort_unstable();
            known.dedup();
            let mut frames = self.look_up(&known);
            for (offset, vaddr) in batch.iter().zip(vaddrs) {
                let found = vaddr.and_then(|vaddr| frames.remove(&vaddr));
                named.unnamed += u64::from(found.is_none());
                let frames = found.unwrap_or_else(|| self.unnamed(*offset, vaddr));
                named.frames.push((*offset, frames));
            }
        }
        named
    }

    /// Frames of the addresses that have a name, from the first place that knows it.
    fn look_up(&mut self, vaddrs: &[u64]) -> HashMap<u64, Box<[Frame]>> {
        let mut found = HashMap::with_capacity(vaddrs.len());
        let mut missing = vaddrs.to_vec();
        for place in 0..self.places.len() {
            if missing.is_empty() {
                break;
            }
            let answers = self.ask(place, &missing);
            for (vaddr, answer) in missing.iter().zip(answers) {
                if let Some(frames) = answer {
                    found.insert(*vaddr, frames);
                }
            }
            missing.retain(|vaddr| !found.contains_key(vaddr));
        }
        for vaddr in missing {
            if let Some(frames) = self.stub(vaddr) {
                found.insert(vaddr, frames);
            }
        }
        found
    }

    /// What one place says; as long as `vaddrs` or, when the place is unusable, empty.
    fn ask(&mut self, place: usize, vaddrs: &[u64]) -> Vec<Option<Box<[Frame]>>> {
        let Self {
            elf,
            symbolizer,
            places,
            names,
            function_names,
            ..
        } = self;
        let Some(asked) = places.get(place) else {
            return Vec::new();
        };
        let mut conversion = Conversion {
            elf,
            symbolizer,
            places,
            names,
            function_names,
        };
        // A hostile file may find a panic in there; it costs that file its names, no more.
        let answers = catch_unwind(AssertUnwindSafe(|| {
            symbolizer
                .symbolize(&asked.source, Input::VirtOffset(vaddrs))
                .map(|answers| {
                    let convert = |(vaddr, answer): (&u64, Symbolized<'_>)| match answer {
                        Symbolized::Sym(sym) => conversion.frames(asked, *vaddr, &sym),
                        Symbolized::Unknown(_) => None,
                    };
                    vaddrs.iter().zip(answers).map(convert).collect()
                })
        }));
        match answers {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                tracing::debug!(path = %elf.path.display(), %error, "no symbols");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// `puts@plt` for an address in a call stub.
    fn stub(&self, vaddr: u64) -> Option<Box<[Frame]>> {
        let image = &self.elf.image;
        let data = self.elf.file.data();
        if !image
            .code_section(vaddr)
            .is_some_and(|section| plt::holds_stubs(&section.name))
        {
            return None;
        }
        let target = self
            .slots
            .get_or_init(|| Slots::read(data))
            .target(data, image, vaddr)?;
        let name = format!("{}@plt", names::display_name(target)).into();
        Some(Box::new([Frame {
            name,
            kind: FrameKind::User,
        }]))
    }

    /// `[module+0xstart]`: addresses of one function share a frame where call frame information
    /// tells functions apart.
    fn unnamed(&self, offset: u64, vaddr: Option<u64>) -> Box<[Frame]> {
        let start = vaddr.map(|vaddr| {
            let function = self.elf.function_around(vaddr);
            function.map_or(vaddr, |function| function.start)
        });
        let name = names::unnamed(&self.elf.path, start.unwrap_or(offset));
        Box::new([Frame {
            name,
            kind: FrameKind::Unknown,
        }])
    }
}

/// Turns blazesym's answers into frames.
struct Conversion<'w> {
    elf: &'w ElfNames,
    symbolizer: &'w Symbolizer,
    places: &'w [Place],
    names: &'w mut HashMap<Box<str>, Box<str>>,
    function_names: &'w mut HashMap<u64, Box<str>>,
}

impl Conversion<'_> {
    fn frames(&mut self, place: &Place, vaddr: u64, sym: &Sym<'_>) -> Option<Box<[Frame]>> {
        let outer = if place.is_dwarf {
            self.dwarf_name(vaddr, sym)?
        } else {
            self.symbol_name(place, vaddr, sym)?
        };
        let mut frames = Vec::with_capacity(1 + sym.inlined.len());
        frames.push(Frame {
            name: outer,
            kind: FrameKind::User,
        });
        for inlined in sym
            .inlined
            .iter()
            .filter(|inlined| !inlined.name.is_empty())
        {
            let name = self.display_name(&inlined.name);
            frames.push(Frame {
                name,
                kind: FrameKind::Inlined,
            });
        }
        Some(frames.into_boxed_slice())
    }

    /// The name of a function that DWARF describes. For C++ the symbol's name is better where
    /// DWARF has a bare one: compilers leave linkage names of constructors out.
    fn dwarf_name(&mut self, vaddr: u64, sym: &Sym<'_>) -> Option<Box<str>> {
        let image = &self.elf.image;
        // The linker leaves descriptions of functions it dropped behind, at address 0 and up.
        if image.code_section(sym.addr).is_none() && !image.code.is_empty() {
            return None;
        }
        // Not in DWARF: blazesym fell back to the symbol table. Our next place does, too, and
        // then the answer is checked.
        if sym.size.is_none() || sym.name.is_empty() {
            return None;
        }
        if names::is_mangled(&sym.name) {
            return Some(self.display_name(&sym.name));
        }
        if let Some(name) = self.function_names.get(&sym.addr) {
            return Some(name.clone());
        }
        let tables = self.places.iter().filter(|place| !place.is_dwarf);
        let mangled = tables.filter_map(|place| {
            let input = Input::VirtOffset(vaddr);
            match self
                .symbolizer
                .symbolize_single(&place.source, input)
                .ok()?
            {
                Symbolized::Sym(sym) if names::is_mangled(&sym.name) => {
                    Some(names::display_name(&sym.name))
                }
                _ => None,
            }
        });
        let name = { mangled }
            .next()
            .unwrap_or_else(|| names::display_name(&sym.name));
        self.function_names.insert(sym.addr, name.clone());
        Some(name)
    }

    /// The name of a symbol that really covers the address.
    fn symbol_name(&mut self, place: &Place, vaddr: u64, sym: &Sym<'_>) -> Option<Box<str>> {
        let image = &self.elf.image;
        if sym.name.is_empty() || !image.same_code_section(vaddr, sym.addr) {
            return None;
        }
        if sym.size.is_some() {
            return Some(self.display_name(&sym.name));
        }
        // A label without a size: blazesym lets it reach to the next symbol. Stubs and other
        // functions in between have none, but call frame information knows better.
        if image
            .code_section(vaddr)
            .is_some_and(|section| plt::holds_stubs(&section.name))
        {
            return None;
        }
        let Some(function) = self.elf.function_around(vaddr) else {
            // The label may be in a function that call frame information does cover.
            let of_label = self.elf.function_around(sym.addr);
            return of_label.is_none().then(|| self.display_name(&sym.name));
        };
        if sym.addr == function.start {
            return Some(self.display_name(&sym.name));
        }
        // A label inside the function, or of another one: the function's own name counts.
        let input = Input::VirtOffset(function.start);
        match self
            .symbolizer
            .symbolize_single(&place.source, input)
            .ok()?
        {
            Symbolized::Sym(first) if first.addr == function.start && !first.name.is_empty() => {
                Some(names::display_name(&first.name))
            }
            _ => None,
        }
    }

    fn display_name(&mut self, symbol: &str) -> Box<str> {
        if let Some(name) = self.names.get(symbol) {
            return name.clone();
        }
        let name = names::display_name(symbol);
        if self.names.len() < REMEMBERED_NAMES_MAX {
            self.names.insert(symbol.into(), name.clone());
        }
        name
    }
}
