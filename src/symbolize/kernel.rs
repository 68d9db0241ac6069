//! Names of kernel code, from `/proc/kallsyms`.
//!
//! The file has 100 000 to 300 000 lines, and a profile asks for some hundreds of addresses. One
//! pass keeps, for every address asked for, the nearest symbol below it and nothing else: memory
//! grows with the questions, not with the kernel.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::profile::model::{Frame, FrameKind};

use super::kallsyms::{self, Line};
use super::kernel_text::KernelText;
use super::names;

/// Where the kernel tells its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// The JIT's limit for one BPF program is a million instructions of a few bytes each; the last
/// program in the list has no successor to bound it.
const BPF_PROGRAM_BYTES_MAX: u64 = 8 << 20;

/// Names of kernel addresses.
#[derive(Debug, Default)]
pub struct KernelNames {
    /// One frame for every address asked for.
    pub frames: HashMap<u64, Box<[Frame]>>,
    /// Why names are missing, and the remedy; `None` when the kernel told its symbols.
    pub problem: Option<String>,
}

/// The symbol nearest to one address asked for.
#[derive(Debug, Clone)]
struct Nearest {
    start: u64,
    rank: u8,
    is_code: bool,
    name: Box<str>,
    module: Option<Box<str>>,
}

/// Names sorted, unique kernel `addresses`; those in the kernel's own text from `text`, where it
/// was read.
#[must_use]
pub fn name_kernel(addresses: &[u64], text: Option<&KernelText>) -> KernelNames {
    let (known, asked): (Vec<u64>, Vec<u64>) = addresses
        .iter()
        .partition(|address| text.is_some_and(|text| text.contains(**address)));
    let mut names = look_up(&asked);
    for address in known {
        let name = text.and_then(|text| text.name(address));
        names.frames.insert(address, frames(name));
    }
    names
}

/// Names sorted, unique addresses as the kernel knows them now.
fn look_up(addresses: &[u64]) -> KernelNames {
    if addresses.is_empty() {
        return KernelNames::default();
    }
    match Table::read(Path::new(KALLSYMS), Path::new("/proc/modules"), addresses) {
        Ok(table) => table.into_names(addresses),
        Err(error) => KernelNames {
            frames: addresses
                .iter()
                .map(|address| (*address, frames(None)))
                .collect(),
            problem: Some(format!(
                "/proc/kallsyms cannot be read ({error}): mount /proc, or use a kernel with \
                 CONFIG_KALLSYMS"
            )),
        },
    }
}

/// What one pass over kallsyms keeps.
struct Table {
    /// For each address asked for: the greatest symbol in (previous address, this address].
    nearest: Vec<Option<Nearest>>,
    /// Ends of the modules, by name.
    module_ends: HashMap<Box<str>, u64>,
    /// Some symbol had an address.
    any_address: bool,
}

impl Table {
    fn read(kallsyms: &Path, modules: &Path, addresses: &[u64]) -> io::Result<Self> {
        let mut table = Self {
            nearest: vec![None; addresses.len()],
            module_ends: module_ends(modules),
            any_address: false,
        };
        kallsyms::read_while(kallsyms, |symbol| {
            table.offer(symbol, addresses);
            true
        })?;
        Ok(table)
    }

    fn offer(&mut self, symbol: &Line<'_>, addresses: &[u64]) {
        self.any_address |= symbol.start != 0;
        let index = addresses.partition_point(|address| *address < symbol.start);
        let Some(slot) = self.nearest.get_mut(index) else {
            return;
        };
        let rank = symbol.rank();
        if slot
            .as_ref()
            .is_none_or(|old| (symbol.start, rank) > (old.start, old.rank))
        {
            *slot = Some(Nearest {
                start: symbol.start,
                rank,
                is_code: symbol.is_code(),
                name: symbol.name.into(),
                module: symbol.module.map(Into::into),
            });
        }
    }

    fn into_names(self, addresses: &[u64]) -> KernelNames {
        if !self.any_address {
            return KernelNames {
                frames: addresses
                    .iter()
                    .map(|address| (*address, frames(None)))
                    .collect(),
                problem: Some(
                    "the kernel hides its symbols (all addresses in /proc/kallsyms are zero): \
                     run as root or with CAP_SYSLOG, and `sysctl kernel.kptr_restrict=1`"
                        .to_owned(),
                ),
            };
        }
        let mut below: Option<&Nearest> = None;
        let mut by_address = HashMap::with_capacity(addresses.len());
        for (address, nearest) in addresses.iter().zip(&self.nearest) {
            below = nearest.as_ref().or(below);
            let covering = below.filter(|symbol| self.covers(symbol, *address));
            by_address.insert(*address, frames(covering.map(|symbol| &*symbol.name)));
        }
        KernelNames {
            frames: by_address,
            problem: None,
        }
    }

    /// Whether a symbol may reach as far as `address`, given that none starts in between.
    fn covers(&self, symbol: &Nearest, address: u64) -> bool {
        let end = match symbol.module.as_deref() {
            None => u64::MAX,
            Some("bpf") => symbol.start.saturating_add(BPF_PROGRAM_BYTES_MAX),
            // `__builtin__ftrace` and the like: generated code, a page or so each.
            Some(module) if module.starts_with("__builtin__") => symbol.start.saturating_add(4096),
            Some(module) => self.module_ends.get(module).copied().unwrap_or(0),
        };
        symbol.is_code && address < end
    }
}

fn frames(name: Option<&str>) -> Box<[Frame]> {
    Box::new([match name {
        Some(name) => Frame {
            name: names::display_name(name),
            kind: FrameKind::Kernel,
        },
        None => Frame {
            name: "[unknown]".into(),
            kind: FrameKind::Unknown,
        },
    }])
}

/// Where each module ends, from `/proc/modules`: `name size references users state address`.
/// A module's text is the first part of it.
fn module_ends(path: &Path) -> HashMap<Box<str>, u64> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return HashMap::new();
    };
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        let size: u64 = words.next()?.parse().ok()?;
        let start = words.nth(3)?.strip_prefix("0x")?;
        Some((
            name.into(),
            u64::from_str_radix(start, 16).ok()?.saturating_add(size),
        ))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(kallsyms: &str, modules: &str, addresses: &[u64]) -> KernelNames {
        let folder = tempfile::tempdir().unwrap();
        let (symbols, ends) = (
            folder.path().join("kallsyms"),
            folder.path().join("modules"),
        );
        std::fs::write(&symbols, kallsyms).unwrap();
        std::fs::write(&ends, modules).unwrap();
        Table::read(&symbols, &ends, addresses)
            .unwrap()
            .into_names(addresses)
    }

    fn name(names: &KernelNames, address: u64) -> &str {
        &names.frames[&address][0].name
    }

    #[test]
    fn nearest_symbol_below_in_any_order_of_lines() {
        let kallsyms = "0000000000001000 T _stext\n0000000000001000 T first\n\
            0000000000005000 t mod_fn\t[mod]\n0000000000001100 t second\n\
            0000000000001200 D data\n0000000000002000 T _etext\n0000000000002000 t zzz\n\
            0000000000009000 t bpf_prog_1234_x\t[bpf]\n";
        let addresses = [
            0x10, 0x1000, 0x10ff, 0x1100, 0x1110, 0x1210, 0x2001, 0x5010, 0x5fff, 0x6000, 0x9001,
        ];
        let names = names_of(
            kallsyms,
            "mod 4096 0 - Live 0x0000000000005000\n",
            &addresses,
        );
        let got: Vec<_> = addresses
            .iter()
            .map(|address| name(&names, *address))
            .collect();
        let unknown = "[unknown]";
        assert_eq!(
            got,
            [
                unknown,
                "first",
                "first",
                "second",
                "second",
                unknown,
                unknown,
                "mod_fn",
                "mod_fn",
                unknown,
                "bpf_prog_1234_x"
            ]
        );
        assert!(names.problem.is_none());
        assert_eq!(names.frames[&0x6000][0].kind, FrameKind::Unknown);
    }

    #[test]
    fn hidden_addresses_are_reported_with_the_remedy() {
        let kallsyms = "0000000000000000 T _stext\n0000000000000000 t foo\n";
        let names = names_of(kallsyms, "", &[0xffff_ffff_8100_0000]);
        assert_eq!(name(&names, 0xffff_ffff_8100_0000), "[unknown]");
        assert!(names.problem.unwrap().contains("kptr_restrict"));
    }

    #[test]
    fn garbage_is_no_panic() {
        let names = names_of(
            "\u{fffd}\n x\n12 \n ffffffffffffffffff T a\n7 T b\n",
            "mod\n",
            &[9],
        );
        assert_eq!(name(&names, 9), "b");
    }
}
