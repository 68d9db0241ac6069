//! Builds the programs of `samples/workloads/`, once per source and flags.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{repository, succeed, target_folder};

/// Flags under which every frame of the C and C++ workloads has a frame pointer, and no call
/// becomes a jump.
const FRAME_POINTERS: &[&str] = &["-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"];

/// A workload to build: a source file and the flags it is compiled with.
#[derive(Debug, Clone)]
pub struct Workload {
    source: PathBuf,
    compiler: &'static str,
    flags: Vec<String>,
}

impl Workload {
    /// `samples/workloads/FILE` with frame pointers and DWARF; the compiler follows the extension.
    pub fn new(file: &str) -> Self {
        let source = repository().join("samples/workloads").join(file);
        let extension = source.extension().and_then(|extension| extension.to_str());
        let (compiler, flags): (_, Vec<&str>) = match extension {
            Some("c") => ("gcc", [&["-O1", "-g", "-pthread"], FRAME_POINTERS].concat()),
            Some("cpp") => ("g++", [&["-O2", "-g"], FRAME_POINTERS].concat()),
            Some("rs") => ("rustc", RUST_FLAGS.to_vec()),
            Some("go") => ("go", vec!["build"]),
            _ => panic!("no compiler for {file}"),
        };
        let flags = flags.into_iter().map(String::from).collect();
        Self {
            source,
            compiler,
            flags,
        }
    }

    /// Adds compiler flags after the usual ones, so that they win.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Has another compiler do it, with the same flags.
    pub fn compiler(mut self, compiler: &'static str) -> Self {
        self.compiler = compiler;
        self
    }

    /// The finished program, compiled now unless it already was.
    pub fn build(&self) -> PathBuf {
        let name = self.source.file_stem().expect("a source file has a name");
        let folder = target_folder()
            .join("workloads")
            .join(format!("{:016x}", self.fingerprint()));
        let program = folder.join(name);
        if program.exists() {
            return program;
        }
        fs::create_dir_all(&folder).expect("creating target/workloads");
        // Compiled beside its place and moved there: tests run at the same time.
        let scratch = tempfile::tempdir_in(&folder).expect("creating a scratch folder");
        let fresh = scratch.path().join(name);
        succeed(
            Command::new(self.compiler)
                .args(&self.flags)
                .arg("-o")
                .arg(&fresh)
                .arg(&self.source)
                // Go's compiler wants a place for what it has compiled; others do not look at it.
                .env("GOCACHE", target_folder().join("go-cache")),
        );
        fs::rename(&fresh, &program).expect("moving the program to its place");
        program
    }

    /// Changes with whatever the program depends on.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let header = self.source.with_file_name("truth.h");
        for file in [self.source.as_path(), &header] {
            fs::read(file)
                .expect("reading a workload's source")
                .hash(&mut hasher);
        }
        (self.compiler, &self.flags).hash(&mut hasher);
        hasher.finish()
    }
}

/// The v0 mangling keeps the generic arguments that the older one drops.
const RUST_FLAGS: &[&str] = &[
    "--edition=2024",
    "-O",
    "-g",
    "-Cforce-frame-pointers=yes",
    "-Csymbol-mangling-version=v0",
];

/// The name by which the kernel knows a program: the first 15 bytes of its file name.
pub fn comm(program: &Path) -> String {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a UTF-8 file name");
    name.chars().take(15).collect()
}
