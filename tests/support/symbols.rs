//! Names that `flame` finds in files which a test compiles itself.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use flame::profile::model::{Frame, FrameKind};
use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, Symbols, symbolize};
use object::{Object, ObjectSegment};

/// Runs a tool; `None` (and a word on why) when it is not installed.
pub fn run(tool: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(tool).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "{tool} is missing: {error}"
            );
            eprintln!("skipped: {tool} is missing");
            return None;
        }
    };
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        text(&output.stderr)
    );
    Some(text(&output.stdout))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with sources and what is built from them.
pub struct Workbench(tempfile::TempDir);

impl Workbench {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Compiles `source` into `binary`.
    pub fn build(
        &self,
        compiler: &str,
        name: &str,
        source: &str,
        flags: &[&str],
    ) -> Option<PathBuf> {
        let binary = name.split('.').next().unwrap();
        std::fs::write(self.path(name), source).unwrap();
        let (input, output) = (self.arg(name), self.arg(binary));
        let mut args = vec![input.as_str(), "-o", &output];
        args.extend(flags);
        run(compiler, &args)?;
        Some(self.path(binary))
    }
}

pub fn module(path: &Path) -> Module {
    let file = File::open(path).unwrap();
    Module {
        path: path.to_owned(),
        device_inode: (0, 0),
        file: Some(file),
        root: None,
    }
}

/// `flame`'s names for virtual addresses of one file.
pub fn names_with(
    module: &Module,
    vaddrs: &[u64],
    options: &Options,
) -> (Vec<Vec<Frame>>, Symbols) {
    let data = std::fs::read(&module.path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let offset = |vaddr: u64| {
        let segment = file
            .segments()
            .find(|segment| {
                (segment.address()..segment.address() + segment.size()).contains(&vaddr)
            })
            .expect("an address inside a segment");
        vaddr - segment.address() + segment.file_range().0
    };
    let offsets: Vec<u64> = vaddrs.iter().map(|vaddr| offset(*vaddr)).collect();
    let id = ModuleId(3);
    let queries = Queries {
        files: HashMap::from([(id, offsets.clone())]),
        ..Queries::default()
    };
    let symbols = symbolize(&queries, |_| module, options);
    let frames = offsets
        .iter()
        .map(|offset| symbols.files[&(id, *offset)].to_vec())
        .collect();
    (frames, symbols)
}

pub fn names_of(path: &Path, vaddrs: &[u64], inline: bool) -> Vec<Vec<Frame>> {
    let options = Options {
        inline,
        debug_dirs: Vec::new(),
        ..Options::default()
    };
    names_with(&module(path), vaddrs, &options).0
}

/// Names of one address, outermost first, inlined ones marked.
pub fn chain(frames: &[Frame]) -> String {
    let mark = |frame: &Frame| match frame.kind {
        FrameKind::User => frame.name.to_string(),
        FrameKind::Inlined => format!("{}_[i]", frame.name),
        kind => format!("{kind:?}:{}", frame.name),
    };
    frames.iter().map(mark).collect::<Vec<_>>().join(";")
}

/// Symbols by name as `nm` prints them: start and size.
pub fn nm(path: &Path) -> Option<BTreeMap<String, (u64, u64)>> {
    let table = run("nm", &["-S", path.to_str().unwrap()])?;
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |word: &str| u64::from_str_radix(word, 16).ok();
        match *words.as_slice() {
            [start, size, _, name] => Some((name.to_owned(), (hex(start)?, hex(size)?))),
            [start, _, name] => Some((name.to_owned(), (hex(start)?, 0))),
            _ => None,
        }
    };
    Some(table.lines().filter_map(parse).collect())
}

pub const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
volatile long sink;
static inline __attribute__((always_inline)) void innermost(long n) { for (long i = 0; i < n; i++) sink += i; }
static inline __attribute__((always_inline)) void middle(long n) { innermost(n); }
__attribute__((noinline)) void outer(long n) { middle(n); }
__attribute__((noinline)) static int local(int n) { sink += n; return n * 3; }
int main(int argc, char **argv) { outer(argc); puts("x"); return local(argc) + atoi(argv[0]); }
"#;

/// A file's build id in hexadecimal digits.
pub fn build_id(path: &Path) -> String {
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let id = file.build_id().unwrap().unwrap();
    let digits: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
