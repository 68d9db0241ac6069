//! From a pattern to what it means: kernel functions, tracepoints, functions of a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};
use regex::Regex;

use super::tracefs::Tracefs;
use crate::error::Error;

/// Files larger than this are not searched for symbols.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Where shared libraries lie when the pattern gives a bare name.
const LIBRARY_FOLDERS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// What can be counted, each with the name that the report shows.
#[derive(Debug)]
pub enum Targets {
    /// Kernel functions by name.
    Kernel(Vec<String>),
    /// Tracepoints: `category:event` and the number in tracefs.
    Tracepoints(Vec<(String, u64)>),
    /// Functions of a file and where their code begins in it.
    User(PathBuf, Vec<(String, u64)>),
}

/// Understands `vfs_read`, `ext4_*`, `t:sched:sched_*`, `c:malloc`, `/usr/bin/bash:read*`.
///
/// # Errors
/// [`Error::Usage`] when the pattern cannot be understood or nothing matches it.
pub fn find(pattern: &str, is_regex: bool) -> Result<Targets> {
    let targets = match pattern.split_once(':') {
        None | Some(("p" | "", _)) => {
            let pattern = pattern.rsplit(':').next().unwrap_or(pattern);
            let wanted = matcher(pattern, is_regex)?;
            Targets::Kernel(kernel_functions(&wanted)?)
        }
        Some(("t", event)) => {
            let (category, event) = event
                .split_once(':')
                .ok_or_else(|| Error::Usage("write a tracepoint as t:CATEGORY:EVENT".into()))?;
            Targets::Tracepoints(tracepoints(
                &matcher(category, is_regex)?,
                &matcher(event, is_regex)?,
            )?)
        }
        Some(_) => {
            // The last colon: a path may have some.
            let (file, function) = pattern.rsplit_once(':').unwrap_or((pattern, "*"));
            let path = locate(file.strip_prefix("u:").unwrap_or(file))?;
            let functions = user_functions(&path, &matcher(function, is_regex)?)?;
            Targets::User(path, functions)
        }
    };
    let found = match &targets {
        Targets::Kernel(names) => names.len(),
        Targets::Tracepoints(found) | Targets::User(_, found) => found.len(),
    };
    if found == 0 {
        return Err(Error::Usage(format!("nothing matches '{pattern}'")).into());
    }
    Ok(targets)
}

/// A whole name: a glob of `*` and `?`, or a regular expression.
fn matcher(pattern: &str, is_regex: bool) -> Result<Regex, Error> {
    let expression = if is_regex {
        format!("^(?:{pattern})$")
    } else {
        let glob = regex::escape(pattern)
            .replace(r"\*", ".*")
            .replace(r"\?", ".");
        format!("^{glob}$")
    };
    Regex::new(&expression).map_err(|error| Error::Usage(format!("bad pattern: {error}")))
}

/// Functions of the kernel and its modules: as ftrace lists those that can be probed. What it has
/// under another name, or not at all, is looked up among all symbols: it lists one name of each.
fn kernel_functions(wanted: &Regex) -> Result<Vec<String>> {
    let listed = Tracefs::open().ok().and_then(|tracefs| {
        std::fs::read_to_string(tracefs.path("available_filter_functions")).ok()
    });
    let mut names = probeable(&listed.unwrap_or_default(), wanted);
    if names.is_empty() {
        let path = "/proc/kallsyms";
        let kallsyms =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        names = functions_among_symbols(&kallsyms, wanted);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Lines are `name` or `name [module]`; what the linker discarded is listed under a name of its own.
fn probeable(listed: &str, wanted: &Regex) -> Vec<String> {
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names
        .filter(|name| !name.starts_with("__ftrace_invalid_address___") && wanted.is_match(name))
        .map(str::to_owned)
        .collect()
}

/// Lines are `address kind name` or `address kind name [module]`. Parts of functions that the compiler
/// moved away have a dot in their names, and what stands before a function is none.
fn functions_among_symbols(kallsyms: &str, wanted: &Regex) -> Vec<String> {
    let symbols = kallsyms.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    symbols
        .filter(|(kind, name)| {
            matches!(*kind, "t" | "T")
                && !name.contains('.')
                && !name.starts_with("__pfx_")
                && wanted.is_match(name)
        })
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn tracepoints(category: &Regex, event: &Regex) -> Result<Vec<(String, u64)>> {
    let tracefs = Tracefs::open()?;
    let events = tracefs.path("events");
    let mut found = Vec::new();
    for category_name in names(&events, category)? {
        let folder = events.join(&category_name);
        for name in names(&folder, event)? {
            let Ok(id) = std::fs::read_to_string(folder.join(&name).join("id")) else {
                continue;
            };
            found.push((format!("{category_name}:{name}"), id.trim().parse()?));
        }
    }
    found.sort();
    Ok(found)
}

fn names(folder: &Path, wanted: &Regex) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder.join(name).is_dir() && wanted.is_match(name));
    Ok(names.collect())
}

/// A path as it is; a bare name is a library (`c` is `libc.so.6`) or a command.
fn locate(file: &str) -> Result<PathBuf> {
    if file.contains('/') {
        return Path::new(file)
            .canonicalize()
            .with_context(|| format!("no such file: {file}"));
    }
    let stem = format!("lib{}.so", file.strip_prefix("lib").unwrap_or(file));
    for folder in LIBRARY_FOLDERS {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        let mut candidates: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                let rest = name.strip_prefix(&stem);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .collect();
        candidates.sort();
        // `libc.so` may be a linker's script; what programs load is the versioned name.
        if let Some(name) = candidates.last() {
            return Ok(Path::new(folder).join(name).canonicalize()?);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(file))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Error::Usage(format!("no library and no command '{file}'; give a path")).into()
        })
}

/// Functions by name with the file offset of their code; one name per offset, since aliases
/// would count a call twice.
fn user_functions(path: &Path, wanted: &Regex) -> Result<Vec<(String, u64)>> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata()?;
    anyhow::ensure!(
        metadata.is_file() && metadata.len() < FILE_BYTES_MAX,
        "{} is not a file of a usual size",
        path.display()
    );
    let cache = object::ReadCache::new(file);
    let elf = object::File::parse(&cache)
        .with_context(|| format!("{} is not an ELF file", path.display()))?;
    let mut by_offset = BTreeMap::new();
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        let Ok(name) = symbol.name() else { continue };
        if symbol.kind() != SymbolKind::Text || symbol.is_undefined() || !wanted.is_match(name) {
            continue;
        }
        if let Some(offset) = file_offset(&elf, symbol.address()) {
            // The dynamic table writes versions behind the name.
            let name = name.split('@').next().unwrap_or(name);
            by_offset.entry(offset).or_insert_with(|| name.to_owned());
        }
    }
    Ok(by_offset
        .into_iter()
        .map(|(offset, name)| (name, offset))
        .collect())
}

fn file_offset<'a>(elf: &impl Object<'a>, address: u64) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let into = address.checked_sub(segment.address())?;
        let (start, size) = segment.file_range();
        (into < size).then_some(start + into)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        let glob = matcher("ext4_*", false).unwrap();
        assert!(glob.is_match("ext4_sync_file") && !glob.is_match("my_ext4_x"));
        assert!(matcher("vfs_rea?", false).unwrap().is_match("vfs_read"));
        assert!(!matcher("a.c", false).unwrap().is_match("abc"));
        assert!(
            matcher("vfs_(read|write)", true)
                .unwrap()
                .is_match("vfs_write")
        );
        assert!(matcher("(", true).is_err());
    }

    #[test]
    fn ftraces_list_has_modules_and_discarded_functions() {
        let listed = "vfs_read\next4_map [ext4]\n__ftrace_invalid_address___52\nkfree\n";
        let all = matcher("*", false).unwrap();
        assert_eq!(probeable(listed, &all), ["vfs_read", "ext4_map", "kfree"]);
        let some = matcher("ext4_*", false).unwrap();
        assert_eq!(probeable(listed, &some), ["ext4_map"]);
    }

    #[test]
    fn of_all_symbols_those_count_that_begin_a_function() {
        let kallsyms = "ffffffff81000010 T vfs_read\nffffffff81000000 t __pfx_vfs_read\n\
                        ffffffff81000100 t vfs_map\t[ext4]\nffffffff81000200 D vfs_data\n\
                        ffffffff81000300 t vfs_read.cold\nnonsense\n";
        let wanted = matcher("*vfs_*", false).unwrap();
        assert_eq!(
            functions_among_symbols(kallsyms, &wanted),
            ["vfs_read", "vfs_map"]
        );
    }

    #[test]
    fn libc_is_found_with_its_functions() {
        let Targets::User(path, found) = find("c:getppid", false).unwrap() else {
            panic!("not a user function");
        };
        assert!(path.to_string_lossy().contains("libc"));
        assert!(
            found.iter().any(|(name, _)| name.ends_with("getppid")),
            "{found:?}"
        );
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        assert!(find("c:no_such_function_", false).is_err());
        assert!(find("nosuchlibrary_:x", false).is_err());
        assert!(find("no_kernel_function_", false).is_err());
    }
}
