//! BPF objects: every `ebpf/<mode>.bpf.c` becomes `ebpf/prebuilt/<mode>.bpf.o`.
//!
//! The objects are committed, so that users need no clang; `--check` proves that nobody has to
//! trust a committed binary. For that the output must depend on the sources and on clang's major
//! version alone: compiled from the repository's top folder with relative names, debug paths
//! mapped away, DWARF stripped (BTF stays: the loader needs it).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};

/// Other versions of clang emit other bytes, so the committed objects name the one they are from.
const CLANG_MAJOR: u32 = 19;

/// Compiles every object into `ebpf/prebuilt/` and removes those without a source.
pub fn build(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let prebuilt = prebuilt(root);
    fs::create_dir_all(&prebuilt)?;
    let sources = sources(root)?;
    for source in &sources {
        toolchain.compile(root, source, &prebuilt.join(source.object_name()))?;
        assert_no_merged_text(&prebuilt.join(source.object_name()))?;
        println!("ebpf/prebuilt/{}", source.object_name());
    }
    for orphan in orphans(root, &sources)? {
        fs::remove_file(prebuilt.join(&orphan))?;
        println!("removed ebpf/prebuilt/{orphan}: it has no source");
    }
    Ok(())
}

/// Compiles every object into a temporary folder and compares it with the committed one.
pub fn check(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let scratch = tempfile::tempdir()?;
    let sources = sources(root)?;
    let mut differing = Vec::new();
    for source in &sources {
        let name = source.object_name();
        let fresh = scratch.path().join(&name);
        toolchain.compile(root, source, &fresh)?;
        assert_no_merged_text(&fresh)?;
        let committed = prebuilt(root).join(&name);
        match fs::read(&committed) {
            Ok(bytes) if bytes == fs::read(&fresh)? => {}
            Ok(_) => differing.push(format!("ebpf/prebuilt/{name} differs from its source")),
            Err(error) => differing.push(format!("ebpf/prebuilt/{name}: {error}")),
        }
    }
    for orphan in orphans(root, &sources)? {
        differing.push(format!("ebpf/prebuilt/{orphan} has no source"));
    }
    ensure!(
        differing.is_empty(),
        "{}\n  remedy: run `cargo xtask bpf` and commit ebpf/prebuilt",
        differing.join("\n")
    );
    println!("{} BPF objects match their sources", sources.len());
    Ok(())
}

/// One `ebpf/<mode>.bpf.c`.
#[derive(Debug)]
struct Source {
    mode: String,
}

impl Source {
    fn object_name(&self) -> String {
        format!("{}.bpf.o", self.mode)
    }
}

fn prebuilt(root: &Path) -> PathBuf {
    root.join("ebpf/prebuilt")
}

/// The modes' sources, sorted by name.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut modes = names_without(&root.join("ebpf"), ".bpf.c")?;
    modes.sort();
    ensure!(
        !modes.is_empty(),
        "no ebpf/*.bpf.c below {}",
        root.display()
    );
    Ok(modes.into_iter().map(|mode| Source { mode }).collect())
}

/// Committed objects whose source is gone.
fn orphans(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let folder = prebuilt(root);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut modes = names_without(&folder, ".bpf.o")?;
    modes.retain(|mode| !sources.iter().any(|source| source.mode == *mode));
    Ok(modes
        .into_iter()
        .map(|mode| format!("{mode}.bpf.o"))
        .collect())
}

/// The names of a folder's files that end in `suffix`, without it.
fn names_without(folder: &Path, suffix: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(suffix))
                .map(String::from),
        );
    }
    Ok(names)
}

/// Programs have sections of their own (`perf_event`, `tp_btf/…`); what is left in `.text*` are
/// subprograms, and the loader relocates calls into one such section only.
fn assert_no_merged_text(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let file = object::File::parse(&*bytes)?;
    let text: Vec<_> = file
        .sections()
        .filter(|section| section.size() > 0)
        .filter_map(|section| section.name().ok().map(String::from))
        .filter(|name| name.starts_with(".text"))
        .collect();
    ensure!(
        text.len() <= 1,
        "{} has several text sections ({}): the loader takes one",
        path.display(),
        text.join(", ")
    );
    Ok(())
}

/// clang and llvm-strip of one release.
#[derive(Debug)]
struct Toolchain {
    clang: String,
    strip: String,
}

impl Toolchain {
    /// Prefers Debian's versioned names; takes the plain ones when they are the right release.
    fn find() -> Result<Self> {
        for suffix in [format!("-{CLANG_MAJOR}"), String::new()] {
            let clang = format!("clang{suffix}");
            let strip = format!("llvm-strip{suffix}");
            if major_version(&clang) == Some(CLANG_MAJOR) && runs(&strip) {
                return Ok(Self { clang, strip });
            }
        }
        bail!(
            "clang {CLANG_MAJOR} and its llvm-strip are not installed\n  \
             remedy: apt-get install clang-{CLANG_MAJOR} llvm-{CLANG_MAJOR}"
        )
    }

    fn compile(&self, root: &Path, source: &Source, object: &Path) -> Result<()> {
        let mut clang = Command::new(&self.clang);
        clang
            .current_dir(root)
            .args([
                "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
            ])
            .args([
                "-D__TARGET_ARCH_x86",
                "-I",
                "ebpf/include",
                "-fdebug-compilation-dir=.",
            ])
            .arg(format!("-ffile-prefix-map={}=.", root.display()))
            .arg("-c")
            .arg(format!("ebpf/{}.bpf.c", source.mode))
            .arg("-o")
            .arg(object);
        succeed(&mut clang)?;
        succeed(Command::new(&self.strip).arg("-g").arg(object))
    }
}

/// The major number in `clang --version`'s first line, for example 19.
fn major_version(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split("version ").nth(1)?;
    version.split('.').next()?.parse().ok()
}

fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Runs a command to its end; its own messages go to stderr.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "__attribute__((section(\"perf_event\"), used))\n\
                           int sample(void *ctx) { return ctx == 0; }\n\
                           char gpl[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";

    fn repository(program: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("ebpf/include")).unwrap();
        fs::write(root.path().join("ebpf/mode.bpf.c"), program).unwrap();
        root
    }

    #[test]
    fn objects_do_not_depend_on_the_folder() {
        let (one, two) = (repository(PROGRAM), repository(PROGRAM));
        build(one.path()).unwrap();
        build(two.path()).unwrap();
        let read = |root: &Path| fs::read(root.join("ebpf/prebuilt/mode.bpf.o")).unwrap();
        assert_eq!(read(one.path()), read(two.path()));
        check(one.path()).unwrap();
    }

    #[test]
    fn check_names_an_object_that_does_not_match() {
        let root = repository(PROGRAM);
        build(root.path()).unwrap();
        let changed = PROGRAM.replace("ctx == 0", "ctx != 0");
        fs::write(root.path().join("ebpf/mode.bpf.c"), changed).unwrap();
        let message = check(root.path()).unwrap_err().to_string();
        assert!(
            message.contains("ebpf/prebuilt/mode.bpf.o differs"),
            "{message}"
        );
    }

    #[test]
    fn check_names_an_object_without_a_source() {
        let root = repository(PROGRAM);
        build(root.path()).unwrap();
        fs::write(root.path().join("ebpf/prebuilt/gone.bpf.o"), b"").unwrap();
        let message = check(root.path()).unwrap_err().to_string();
        assert!(
            message.contains("ebpf/prebuilt/gone.bpf.o has no source"),
            "{message}"
        );
        build(root.path()).unwrap();
        check(root.path()).unwrap();
    }

    #[test]
    fn several_text_sections_are_refused() {
        let program = format!(
            "__attribute__((section(\".text.a\"), noinline)) static int a(long x) \
             {{ asm volatile(\"\"); return x > 1; }}\n\
             __attribute__((section(\".text.b\"), noinline)) static int b(long x) \
             {{ asm volatile(\"\"); return x > 2; }}\n{}",
            PROGRAM.replace("ctx == 0", "a((long)ctx) + b((long)ctx)")
        );
        let root = repository(&program);
        let message = build(root.path()).unwrap_err().to_string();
        assert!(message.contains("several text sections"), "{message}");
    }
}
