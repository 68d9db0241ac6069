//! Names of kernel code, from `/proc/kallsyms`.
//!
//! The file has 100 000 to 300 000 lines, and a profile asks for some hundreds of addresses. One
//! pass keeps, for every address asked for, the nearest symbol below it and nothing else: memory
//! grows with the questions, not with the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::profile::model::{Frame, FrameKind};

use super::names;

/// A kernel with more text than this in its symbol table does not exist.
const KALLSYMS_BYTES_MAX: u64 = 512 << 20;

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

/// Names sorted, unique kernel `addresses`.
#[must_use]
pub fn name_kernel(addresses: &[u64]) -> KernelNames {
    if addresses.is_empty() {
        return KernelNames::default();
    }
    match Table::read(
        Path::new("/proc/kallsyms"),
        Path::new("/proc/modules"),
        addresses,
    ) {
        Ok(table) => table.into_names(addresses),
        Err(error) => KernelNames {
            frames: addresses
                .iter()
                .map(|address| (*address, unknown()))
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
        let file = File::open(kallsyms)?.take(KALLSYMS_BYTES_MAX);
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if let Some(symbol) = std::str::from_utf8(&line).ok().and_then(parse_line) {
                table.offer(&symbol, addresses);
            }
            line.clear();
        }
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
                    .map(|address| (*address, unknown()))
                    .collect(),
                problem: Some(
                    "the kernel hides its symbols (all addresses in /proc/kallsyms are zero): \
                     run as root or with CAP_SYSLOG, and `sysctl kernel.kptr_restrict=1`"
                        .to_owned(),
                ),
            };
        }
        let mut below: Option<&Nearest> = None;
        let mut frames = HashMap::with_capacity(addresses.len());
        for (address, nearest) in addresses.iter().zip(&self.nearest) {
            below = nearest.as_ref().or(below);
            let name = below
                .filter(|symbol| self.covers(symbol, *address))
                .map(|symbol| Frame {
                    name: names::display_name(&symbol.name),
                    kind: FrameKind::Kernel,
                });
            frames.insert(
                *address,
                name.map_or_else(unknown, |frame| Box::new([frame])),
            );
        }
        KernelNames {
            frames,
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

fn unknown() -> Box<[Frame]> {
    Box::new([Frame {
        name: "[unknown]".into(),
        kind: FrameKind::Unknown,
    }])
}

/// One line of kallsyms: `ffffffff81000000 T _stext` or `… t nf_hook [nf_tables]`.
struct Line<'a> {
    start: u64,
    kind: u8,
    name: &'a str,
    module: Option<&'a str>,
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    let start = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = *words.next()?.as_bytes().first()?;
    let name = words.next()?;
    let module = words.next().map(|module| module.trim_matches(['[', ']']));
    Some(Line {
        start,
        kind,
        name,
        module,
    })
}

impl Line<'_> {
    /// Text, and no marker of where text ends: what is behind `_etext` belongs to nobody.
    fn is_code(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'w' | b'W')
            && !matches!(self.name, "_etext" | "_einittext" | "__end_rodata")
    }

    /// Which of the names of one address is shown: code before data, global before local before
    /// weak, plain before underscored.
    fn rank(&self) -> u8 {
        let kind = match self.kind {
            b'T' => 3,
            b't' => 2,
            b'w' | b'W' => 1,
            _ => 0,
        };
        let is_marker = !self.is_code() && kind > 0;
        let plain = u8::from(!self.name.starts_with('_'));
        // A marker wins: at its address the text is over.
        if is_marker { u8::MAX } else { kind * 2 + plain }
    }
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
