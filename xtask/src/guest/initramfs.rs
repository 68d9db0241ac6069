//! The guests' file system: busybox, flame, workloads, BPF objects, checks, and a kernel's modules.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::checks::Check;
use super::command::run;
use super::kernels::Unpacked;
use super::modules;
use super::zfs::Zfs;

const INIT: &str = include_str!("init.sh");
const BUSYBOX: &str = "/bin/busybox";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs under test loads, from `samples/workloads`, all with frame pointers.
const WORKLOADS: &[Workload] = &[
    Workload {
        name: "three_functions",
        source: "three_functions.c",
        flags: FRAME_POINTERS,
    },
    Workload {
        name: "kernel_loop",
        source: "kernel_loop.c",
        flags: FRAME_POINTERS,
    },
    Workload {
        name: "bare_functions",
        source: "three_functions.c",
        flags: &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"],
    },
];

/// Tests of this repository that the guests run too: the tools against loads of known size.
const TESTS: &[&str] = &[
    "funccount_exact",
    "tools_block",
    "tools_calls",
    "tools_memory",
    "tools_scheduler",
    "tools_tcp",
];

const FRAME_POINTERS: &[&str] = &[
    "-O1",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
];

/// A program of `samples/workloads` as a guest gets it.
struct Workload {
    name: &'static str,
    source: &'static str,
    flags: &'static [&'static str],
}

/// What goes into every guest, built once.
#[derive(Debug)]
pub struct Programs {
    /// The cargo profile's output: `flame` and `xtask`.
    built: PathBuf,
    /// By name, where cargo put them.
    tests: Vec<(&'static str, PathBuf)>,
    workloads: PathBuf,
    objects: PathBuf,
}

impl Programs {
    /// Builds flame, this program and the workloads, all static: a guest has no libraries.
    ///
    /// # Errors
    /// When a build fails or its result is not static.
    pub fn build(root: &Path, guest: &Path) -> Result<Self> {
        is_static(Path::new(BUSYBOX)).context("remedy: install the package busybox-static")?;
        let folder = guest.join("build");
        let tests = cargo_build(root, &folder)?;
        let programs = Self {
            built: folder.join(TARGET).join("guest"),
            tests,
            workloads: guest.join("loads"),
            objects: root.join("ebpf/prebuilt"),
        };
        fs::create_dir_all(&programs.workloads)?;
        for workload in WORKLOADS {
            run(Command::new("gcc")
                .args(["-g", "-static", "-pthread"])
                .args(workload.flags)
                .arg(root.join("samples/workloads").join(workload.source))
                .arg("-o")
                .arg(programs.workloads.join(workload.name)))?;
        }
        for (_, program) in programs.executables() {
            is_static(&program)?;
        }
        Ok(programs)
    }

    /// Each with its name in the guest.
    fn executables(&self) -> Vec<(&'static str, PathBuf)> {
        let tools = ["flame", "xtask"].map(|name| (name, self.built.join(name)));
        let loads = WORKLOADS
            .iter()
            .map(|workload| (workload.name, self.workloads.join(workload.name)));
        let tests = self.tests.iter().cloned();
        tools.into_iter().chain(loads).chain(tests).collect()
    }

    /// Writes the file system for one kernel, with the checks that it is to run.
    ///
    /// # Errors
    /// When a file cannot be copied or packed.
    pub fn pack(
        &self,
        kernel: &Unpacked,
        zfs: Option<&Zfs>,
        checks: &[&Check],
        initramfs: &Path,
    ) -> Result<()> {
        let root = initramfs.with_extension("tree");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for folder in ["bin", "objects", "checks"] {
            fs::create_dir_all(root.join(folder))?;
        }
        executable(&root.join("init"), INIT.as_bytes())?;
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for (name, program) in self.executables() {
            fs::copy(&program, root.join("bin").join(name))?;
        }
        for entry in fs::read_dir(&self.objects)? {
            let entry = entry?;
            fs::copy(entry.path(), root.join("objects").join(entry.file_name()))?;
        }
        for (number, check) in checks.iter().enumerate() {
            let file = format!("checks/{number:02}-{}.sh", check.name);
            fs::write(root.join(file), check.script)?;
        }
        if let Some(zfs) = zfs {
            zfs.stage(&root)?;
        }
        let added = zfs.map(|zfs| zfs.modules.as_path());
        modules::stage(&kernel.modules, added, &root.join("modules"))?;
        archive(&root, initramfs)
    }
}

/// Builds flame, xtask and the tests; gives the tests' files, whose names cargo chooses.
fn cargo_build(root: &Path, folder: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "guest",
            "--target",
            TARGET,
        ])
        .args(["--package", "flame", "--package", "xtask", "--bins"])
        .args(TESTS.iter().flat_map(|test| ["--test", test]))
        .args(["--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(root)
        .stderr(Stdio::inherit());
    let output = cargo.output()?;
    ensure!(output.status.success(), "cargo build failed");
    let messages = String::from_utf8_lossy(&output.stdout);
    TESTS
        .iter()
        .map(|test| {
            let file = messages.lines().find_map(|line| test_file(line, test));
            Ok((
                *test,
                file.with_context(|| format!("cargo built no {test}"))?,
            ))
        })
        .collect()
}

/// The file that one of cargo's messages gives for a test.
fn test_file(message: &str, test: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_it = target["name"] == test && target["kind"][0] == "test";
    is_it.then(|| Some(message["executable"].as_str()?.into()))?
}

fn executable(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Packs a folder the way the kernel unpacks its first file system.
fn archive(root: &Path, initramfs: &Path) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "busybox find . | busybox cpio -o -H newc"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(fs::File::create(initramfs)?)
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "cpio cannot pack {}", root.display());
    Ok(())
}

/// A program with an interpreter (the dynamic loader) would not even start in a guest.
fn is_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes)?;
    let has_interpreter = file
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type.get(file.endian()) == object::elf::PT_INTERP);
    ensure!(!has_interpreter, "{} is not static", program.display());
    Ok(())
}
