//! ZFS in a guest: the modules of Debian's zfs-dkms, built for the guest's kernel, and the programs
//! that make a pool.
//!
//! Compiler, kernel headers and sources are all of one suite and unpacked into a tree of their own,
//! in which the build runs: the machine's own compiler and libraries do not matter, and nothing is
//! installed.

pub mod checks;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::apt::{self, Suite};
use super::command::{output, run};
use super::kernels::Unpacked;

/// The kernel that the modules are built for; its suite has headers and ZFS.
pub const KERNEL: &str = "6.12";
const SUITE: &str = "trixie";

/// What a build needs beside the kernel's headers, which bring their compiler along. pahole and
/// the headers' own type information give the modules theirs.
const BUILD_PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "file",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "kmod",
    "libc6-dev",
    "make",
    "mawk",
    "pahole",
    "perl-base",
    "sed",
    "tar",
    "util-linux",
    "xz-utils",
    "zfsutils-linux",
];

/// Packages of which some files are wanted, and nothing that they depend on: the modules' sources,
/// and zinject.
const ALONE: &[&str] = &["zfs-dkms", "zfs-test"];

/// The programs that a guest gets, with the libraries that they load.
const PROGRAMS: &[&str] = &["usr/sbin/zpool", "usr/sbin/zfs", "usr/sbin/zinject"];
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

const BUILD: &str = include_str!("zfs/build.sh");
const FUNCTIONS: &str = include_str!("zfs/functions.sh");

/// ZFS as a guest gets it.
#[derive(Debug)]
pub struct Zfs {
    /// The folder with `spl.ko` and `zfs.ko`.
    pub modules: PathBuf,
    /// The unpacked packages.
    tree: PathBuf,
}

impl Zfs {
    /// Takes what was built for this kernel before, or builds it.
    ///
    /// # Errors
    /// When the packages cannot be had, or do not build.
    pub fn obtain(guest: &Path, kernel: &Unpacked, mirror: Option<&str>) -> Result<Self> {
        let folder = guest.join("zfs").join(&kernel.release);
        let tree = folder.join("tree");
        let modules = folder.join("modules");
        if !tree.exists() {
            let packages = folder.join("packages");
            download(guest, &packages, &kernel.release, mirror)?;
            unpack(&packages, &tree)?;
        }
        if !modules.exists() {
            build(&folder, &tree, &kernel.release)?;
            fs::rename(tree.join("built"), &modules)?;
        }
        Ok(Self { modules, tree })
    }

    /// Puts the programs, their libraries and what the checks share into a guest's file system.
    ///
    /// # Errors
    /// When one is missing.
    pub fn stage(&self, root: &Path) -> Result<()> {
        let libraries = root.join("lib/x86_64-linux-gnu");
        for folder in [&libraries, &root.join("lib64")] {
            fs::create_dir_all(folder)?;
        }
        fs::write(root.join("bin/functions.sh"), FUNCTIONS)?;
        fs::copy(
            self.tree.join(LOADER),
            root.join("lib64/ld-linux-x86-64.so.2"),
        )?;
        for program in PROGRAMS {
            let program = self.tree.join(program);
            fs::copy(&program, root.join("bin").join(file_name(&program)))?;
            for library in self.libraries_of(&program)? {
                fs::copy(&library, libraries.join(file_name(&library)))?;
            }
        }
        Ok(())
    }

    /// What the tree's own dynamic loader would load.
    fn libraries_of(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let list = output(
            Command::new(self.tree.join(LOADER))
                .arg("--library-path")
                .arg(self.tree.join(LIBRARIES))
                .arg("--list")
                .arg(program),
        )?;
        // "libzfs.so.6 => /…/libzfs.so.6 (0x00007f…)"
        let found = list.lines().filter_map(|line| {
            let (_, path) = line.split_once(" => ")?;
            Some(PathBuf::from(path.split_once(" (")?.0))
        });
        Ok(found.collect())
    }
}

fn file_name(path: &Path) -> &std::ffi::OsStr {
    path.file_name().unwrap_or_default()
}

fn download(guest: &Path, packages: &Path, release: &str, mirror: Option<&str>) -> Result<()> {
    let mirror = mirror.map_or_else(apt::mirror, |given| Ok(given.to_owned()))?;
    let lists = guest.join("apt").join(format!("{SUITE}-contrib"));
    let suite = Suite::update(&lists, SUITE, "main contrib", &mirror)
        .with_context(|| format!("the suite {SUITE} cannot be had from {mirror}"))?;
    let headers = format!("linux-headers-{release}");
    ensure!(
        suite.names(&headers)?.contains(&headers),
        "the suite {SUITE} has no {headers} any more\n  remedy: delete {} to get the newer kernel",
        guest.join("kernels").join(KERNEL).display()
    );
    eprintln!("{release}: downloading what builds ZFS");
    let mut wanted = BUILD_PACKAGES.to_vec();
    wanted.push(&headers);
    suite.download_with_dependencies(&wanted, packages)?;
    for package in ALONE {
        suite.download(package, packages)?;
    }
    Ok(())
}

/// Unpacks all packages into `tree`, which appears only when it is complete.
fn unpack(packages: &Path, tree: &Path) -> Result<()> {
    let partial = tree.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&path)
                .arg(&partial))?;
        }
    }
    Ok(fs::rename(&partial, tree)?)
}

/// Runs the build with `tree` as its root: as root of a user namespace, which needs no rights.
fn build(folder: &Path, tree: &Path, release: &str) -> Result<()> {
    let log = folder.join("build.log");
    eprintln!(
        "{release}: building ZFS, which takes twenty minutes on two CPUs; see {}",
        log.display()
    );
    fs::write(tree.join("build.sh"), BUILD)?;
    let script = "mount --rbind /dev \"$0/dev\" && mount --rbind /proc \"$0/proc\" &&
        exec chroot \"$0\" /usr/bin/sh -e /build.sh \"$1\"";
    let start = Instant::now();
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(tree)
        .arg(release)
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(File::options().append(true).open(&log)?)
        .status()
        .context("cannot run unshare")?;
    ensure!(
        status.success(),
        "ZFS does not build for {release}: {status}; see {}",
        log.display()
    );
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    eprintln!("{release}: ZFS was built in {minutes:.0} minutes");
    Ok(())
}
