//! The kernel's own functions, read while there is time: what is left to do at the end of a run
//! is to look them up.
//!
//! They stay where they are while the kernel runs. Modules and BPF programs come and go; they are
//! asked for when their names are needed.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use super::kallsyms::{self, Line};
use super::kernel::KALLSYMS;

/// Names of the code between `_stext` and `_etext`: about 40 bytes for each function.
#[derive(Debug, Default)]
pub struct KernelText {
    /// Sorted by start; each reaches to the start of the next.
    symbols: Vec<Symbol>,
    /// All names, one behind the other.
    names: String,
    /// Empty when the kernel hides its addresses.
    text: Range<u64>,
}

#[derive(Debug)]
struct Symbol {
    start: u64,
    /// See [`Line::rank`].
    rank: u8,
    /// In `names`; `None` where no code starts.
    name: Option<Range<u32>>,
}

impl KernelText {
    /// Reads the file up to the first symbol of a module.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(kallsyms: &Path) -> io::Result<Self> {
        let mut text = Self::default();
        kallsyms::read_while(kallsyms, |symbol| {
            if symbol.module.is_none() {
                text.push(symbol);
            }
            symbol.module.is_none()
        })?;
        let bounds = text.text.clone();
        let symbols = &mut text.symbols;
        symbols.retain(|symbol| bounds.contains(&symbol.start));
        symbols.sort_by_key(|symbol| (symbol.start, std::cmp::Reverse(symbol.rank)));
        symbols.dedup_by_key(|symbol| symbol.start);
        symbols.shrink_to_fit();
        Ok(text)
    }

    /// Whether this is the place to ask for an address.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.text.contains(&address)
    }

    /// The function that an address is in, as kallsyms calls it.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        if !self.contains(address) {
            return None;
        }
        let above = self
            .symbols
            .partition_point(|symbol| symbol.start <= address);
        let name = self.symbols.get(above.checked_sub(1)?)?.name.clone()?;
        self.names.get(name.start as usize..name.end as usize)
    }

    fn push(&mut self, line: &Line<'_>) {
        match line.name {
            "_stext" => self.text.start = line.start,
            "_etext" => self.text.end = line.start,
            _ => {}
        }
        // Data is of no interest unless it ends code.
        let name = line.is_code().then(|| {
            let start = self.names.len() as u32;
            self.names.push_str(line.name);
            start..self.names.len() as u32
        });
        self.symbols.push(Symbol {
            start: line.start,
            rank: line.rank(),
            name,
        });
    }
}

/// The kernel's text, being read by a worker thread.
#[derive(Debug)]
pub struct Reading(Receiver<KernelText>);

impl Reading {
    /// Starts to read.
    #[must_use]
    pub fn start() -> Self {
        let (sender, receiver) = sync_channel(1);
        rayon::spawn(move || match KernelText::read(Path::new(KALLSYMS)) {
            // Nobody waits for it any more: the run has ended without samples.
            Ok(text) => drop(sender.send(text)),
            // What needs the names says it again, with the remedy.
            Err(error) => tracing::debug!("{KALLSYMS} cannot be read ahead: {error}"),
        });
        Self(receiver)
    }

    /// Waits for the end of it; `None` when the file cannot be read.
    #[must_use]
    pub fn finish(self) -> Option<KernelText> {
        self.0.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kallsyms: &str) -> KernelText {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kallsyms");
        std::fs::write(&path, kallsyms).unwrap();
        KernelText::read(&path).unwrap()
    }

    #[test]
    fn only_the_kernels_own_text() {
        let text = read(
            "0000000000000010 A per_cpu\n0000000000001000 T _stext\n\
             0000000000001000 T first\n0000000000001200 t __second_alias\n\
             0000000000001200 T second\n0000000000001300 r data\n0000000000001310 t third\n\
             0000000000002000 T _etext\n0000000000002010 t init\n\
             0000000000005000 t function\t[module]\n0000000000001400 t late\n",
        );
        let name = |address| text.name(address);
        assert_eq!(name(0x1000), Some("first"));
        assert_eq!(name(0x12ff), Some("second"));
        assert_eq!((name(0x1300), name(0x1310)), (None, Some("third")));
        assert_eq!(
            name(0x1fff),
            Some("third"),
            "what follows a module is not read"
        );
        let elsewhere = [0, 0x10, 0xfff, 0x2000, 0x2010, 0x5000];
        assert!(elsewhere.iter().all(|address| !text.contains(*address)));
    }

    #[test]
    fn hidden_addresses_answer_nothing() {
        let text = read("0000000000000000 T _stext\n0000000000000000 T _etext\n");
        assert!(!text.contains(0) && text.name(0).is_none());
    }
}
