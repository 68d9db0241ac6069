//! One module's unwind table: every row of its call frame information, in the flat form that the
//! kernel side searches (the layout is in `ebpf/include/unwind_abi.h`).
//!
//! The input is hostile. Rows, pages and the work of evaluating CFI programs are bounded by the
//! file's own size; what exceeds the bounds is an error, never a table cut short.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice,
    FrameDescriptionEntry, LittleEndian, UnwindContext, UnwindSection,
};

use super::abi::{LINE_WORDS, PAGE_BITS_MAX, Rule, TABLE_VERSION, TableHeader};
use super::elf::{Cfi, CfiKind, ElfLayout, Segment};
use super::rule;

/// More rows than this are refused. The largest programs known have 4 million.
const ROWS_MAX: usize = 16 << 20;
/// Words of a rule.
const RULE_WORDS: usize = 4;
/// Small pages make short searches; the page index should stay small beside the rows.
const PAGE_BITS_MIN: u32 = 10;
/// Code at the entry point that nothing describes ends the stack; so many bytes of it.
const ENTRY_BYTES: u32 = 64;
/// A power of two.
const RECENT_RULES: usize = 256;
/// Compiling the largest known program takes a tenth of this, on a busy machine in debug mode.
const TIME_MAX: Duration = Duration::from_secs(20);
/// One function's program is not evaluated beyond this; the longest known has 100 KB.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// The number of [`rule::UNSUPPORTED`], the second rule of every table.
const UNSUPPORTED_NUMBER: u16 = 1;

/// Each function looks its segment up by going through them.
const SEGMENTS_MAX: usize = 64;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A module's unwind table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    words: Vec<u32>,
}

impl Table {
    /// Compiles a module's call frame information.
    pub fn build(layout: &ElfLayout, cfi: &Cfi) -> Result<Self> {
        let mut builder = Builder::new(&layout.segments)?;
        let bases = BaseAddresses::default()
            .set_eh_frame(cfi.address)
            .set_text(layout.segments_text(cfi.text_address));
        match cfi.kind {
            CfiKind::EhFrame => {
                let mut section = EhFrame::new(&cfi.bytes, LittleEndian);
                section.set_address_size(8);
                builder.gather(&section, &bases, cfi.bytes.len())?;
            }
            CfiKind::DebugFrame => {
                let mut section = DebugFrame::new(&cfi.bytes, LittleEndian);
                section.set_address_size(8);
                builder.gather(&section, &bases, cfi.bytes.len())?;
            }
        }
        builder.finish(layout.entry)
    }

    /// Takes words from a file, if every index in them stays inside the table.
    pub fn from_words(words: Vec<u32>) -> Result<Self> {
        let table = Self { words };
        table.validate()?;
        Ok(table)
    }

    /// The table as the BPF array holds it: whole lines of [`LINE_WORDS`].
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Elements of the BPF array.
    #[must_use]
    pub fn lines(&self) -> u32 {
        (self.words.len() / LINE_WORDS) as u32
    }

    /// The first line.
    #[must_use]
    pub fn header(&self) -> TableHeader {
        self.words
            .first_chunk::<LINE_WORDS>()
            .map_or_else(TableHeader::default, TableHeader::from_words)
    }

    /// The rule that covers an ELF address; `None` when nothing does. The same steps as
    /// `find_rule` in `ebpf/include/unwind.h`.
    #[must_use]
    pub fn find_rule(&self, elf_address: u64) -> Option<Rule> {
        let header = self.header();
        let offset = elf_address.wrapping_sub(header.base);
        if offset >= u64::from(header.span) {
            return None;
        }
        let page = offset as u32 >> header.page_bits;
        let within = offset as u32 & ((1 << header.page_bits) - 1);
        let mut low = self.word(header.pages_at + page)?;
        let mut high = self.word(header.pages_at + page + 1)?;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.word(header.rows_at + middle)? >> 16 <= within {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let row = self.word(header.rows_at + low.checked_sub(1)?)?;
        self.rule(header.rules_at, row & 0xffff)
    }

    fn word(&self, index: u32) -> Option<u32> {
        self.words.get(index as usize).copied()
    }

    fn rule(&self, rules_at: u32, index: u32) -> Option<Rule> {
        let at = rules_at as usize + index as usize * RULE_WORDS;
        let words = self.words.get(at..)?.first_chunk::<RULE_WORDS>()?;
        Some(Rule::from_words(*words))
    }

    fn validate(&self) -> Result<()> {
        let header = self.header();
        ensure!(
            self.words.len().is_multiple_of(LINE_WORDS),
            "not whole lines"
        );
        ensure!(
            header.version == TABLE_VERSION,
            "version {}",
            header.version
        );
        ensure!(header.page_bits <= PAGE_BITS_MAX, "page bits");
        ensure!(
            (header.rules_at as usize).is_multiple_of(RULE_WORDS),
            "misaligned rules"
        );
        let section = |at: u32, words: u64| -> Result<&[u32]> {
            let end = usize::try_from(u64::from(at) + words)?;
            self.words
                .get(at as usize..end)
                .context("a section lies outside of the table")
        };
        let pages = (u64::from(header.span)).div_ceil(1 << header.page_bits);
        let pages = section(header.pages_at, pages + 1)?;
        let rows = section(header.rows_at, u64::from(header.rows))?;
        section(header.rules_at, u64::from(header.rules) * RULE_WORDS as u64)?;
        ensure!(pages.is_sorted(), "unsorted pages");
        ensure!(
            pages.last() == Some(&header.rows),
            "pages do not end with the rows"
        );
        ensure!(
            rows.iter().all(|row| row & 0xffff < header.rules),
            "a row without its rule"
        );
        Ok(())
    }
}

impl ElfLayout {
    /// Text-relative pointers are rare; without section headers the first code must do.
    fn segments_text(&self, text_address: u64) -> u64 {
        match text_address {
            0 => self
                .segments
                .iter()
                .find(|s| s.executable)
                .map_or(0, |s| s.address),
            address => address,
        }
    }
}

/// The rows of one function, in `Builder::rows`.
#[derive(Debug, Clone, Copy)]
struct Function {
    start: u32,
    end: u32,
    first_row: usize,
    rows: usize,
}

/// Addresses are relative to `base` from here on: code spans less than 4 GiB.
#[derive(Debug)]
struct Builder {
    base: u64,
    span: u32,
    code: Vec<(u64, u64)>,
    rules: Vec<Rule>,
    rule_numbers: HashMap<Rule, u16>,
    /// The last rules numbered, by a cheap hash: most rows repeat one of them.
    recent: Box<[(Rule, u16); RECENT_RULES]>,
    functions: Vec<Function>,
    rows: Vec<(u32, u16)>,
}

impl Builder {
    fn new(segments: &[Segment]) -> Result<Self> {
        let code: Vec<_> = segments
            .iter()
            .filter(|segment| segment.executable && segment.file_size > 0)
            .map(|segment| (segment.address, segment.end()))
            .collect();
        ensure!(
            code.len() <= SEGMENTS_MAX,
            "{} segments of code",
            code.len()
        );
        let start = code.iter().map(|range| range.0).min().context("no code")?;
        let end = code.iter().map(|range| range.1).max().context("no code")?;
        let base = start & !((1 << PAGE_BITS_MAX) - 1);
        let span = u32::try_from(end - base)
            .ok()
            .context("code spans more than 4 GiB")?;
        ensure!(span < u32::MAX - (1 << PAGE_BITS_MAX), "code spans 4 GiB");
        let mut builder = Self {
            base,
            span,
            code,
            rules: Vec::new(),
            rule_numbers: HashMap::new(),
            // Number 0 is `NONE`'s own.
            recent: Box::new([(rule::NONE, 0); RECENT_RULES]),
            functions: Vec::new(),
            rows: Vec::new(),
        };
        // The first two are needed where no room for more is left.
        builder.number_of_new(rule::NONE);
        builder.number_of_new(rule::UNSUPPORTED);
        Ok(builder)
    }

    /// The rule's number. A file with more than 65536 different rules is nobody's compiler's.
    fn number(&mut self, rule: Rule) -> u16 {
        let words = rule.to_words();
        let hash = (words[0] ^ words[1].rotate_left(8) ^ words[2]).wrapping_mul(0x9e37_79b1);
        let slot = hash as usize >> (32 - RECENT_RULES.ilog2());
        let (recent, number) = self.recent[slot];
        if recent == rule {
            return number;
        }
        let number = self.number_of_new(rule);
        self.recent[slot] = (rule, number);
        number
    }

    fn number_of_new(&mut self, rule: Rule) -> u16 {
        if let Some(number) = self.rule_numbers.get(&rule) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.rules.len()) else {
            return UNSUPPORTED_NUMBER;
        };
        self.rules.push(rule);
        self.rule_numbers.insert(rule, number);
        number
    }

    /// Evaluates every function's CFI program. A damaged entry costs itself, not the rest.
    fn gather<'a, S>(&mut self, section: &S, bases: &BaseAddresses, bytes: usize) -> Result<()>
    where
        S: UnwindSection<Slice<'a>>,
        S::Offset: gimli::UnwindOffset<usize>,
    {
        let mut cies: HashMap<usize, gimli::Result<CommonInformationEntry<Slice<'a>>>> =
            HashMap::new();
        let deadline = Instant::now() + TIME_MAX;
        let mut context = UnwindContext::new();
        let mut entries = section.entries(bases);
        // Each function evaluates its CIE's program again: a long one shared by many is an attack.
        let mut work_left = 8 * bytes + (1 << 20);
        loop {
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("call frame information ends early: {error}");
                    break;
                }
            };
            let fde = partial.parse(|section, bases, offset| {
                let key = gimli::UnwindOffset::into(offset);
                cies.entry(key)
                    .or_insert_with(|| section.cie_from_offset(bases, offset))
                    .clone()
            });
            let Ok(fde) = fde else { continue };
            work_left = work_left
                .checked_sub(fde.entry_len().saturating_add(fde.cie().entry_len()))
                .context("call frame information too complex for its size")?;
            ensure!(
                Instant::now() < deadline,
                "call frame information takes too long"
            );
            self.function(section, bases, &mut context, &fde)?;
        }
        Ok(())
    }

    fn function<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        context: &mut UnwindContext<usize>,
        fde: &FrameDescriptionEntry<Slice<'a>>,
    ) -> Result<()> {
        let start = fde.initial_address();
        // Linkers leave entries of discarded functions behind, at address 0 or so.
        let Some((_, code_end)) = self
            .code
            .iter()
            .find(|code| code.0 <= start && start < code.1)
        else {
            return Ok(());
        };
        let end = start.saturating_add(fde.len()).min(*code_end);
        if start >= end {
            return Ok(());
        }
        let base = self.base;
        let relative = |address: u64| (address.clamp(start, end) - base) as u32;
        let (start_row, end_row) = (relative(start), relative(end));
        let first_row = self.rows.len();
        let mut covered_to = start_row;
        let program_bytes = fde.entry_len().max(fde.cie().entry_len());
        if program_bytes <= PROGRAM_BYTES_MAX
            && let Ok(mut rows) = fde.rows(section, bases, context)
        {
            while let Ok(Some(row)) = rows.next_row() {
                let row_start = relative(row.start_address());
                covered_to = relative(row.end_address());
                let rule = rule::from_row(section, row, fde.is_signal_trampoline());
                let number = self.number(rule);
                self.rows.push((row_start, number));
                if self.rows.len() > ROWS_MAX {
                    bail!("more than {ROWS_MAX} rows");
                }
            }
        }
        if covered_to < end_row {
            self.rows.push((covered_to, UNSUPPORTED_NUMBER));
        }
        let rows = self.rows.len() - first_row;
        self.functions.push(Function {
            start: start_row,
            end: end_row,
            first_row,
            rows,
        });
        Ok(())
    }

    fn finish(mut self, entry: u64) -> Result<Table> {
        self.functions.sort_by_key(|function| function.start);
        self.stop_at_entry(entry);
        let rows = self.merge();
        ensure!(!rows.is_empty(), "no call frame information for the code");
        Ok(self.encode(&rows))
    }

    /// Hand-written entry code often has no CFI; nobody called it.
    fn stop_at_entry(&mut self, entry: u64) {
        if !self
            .code
            .iter()
            .any(|code| code.0 <= entry && entry < code.1)
        {
            return;
        }
        let start = (entry - self.base) as u32;
        let next = self
            .functions
            .partition_point(|function| function.start <= start);
        let before = next
            .checked_sub(1)
            .and_then(|index| self.functions.get(index));
        if before.is_some_and(|function| start < function.end) {
            return;
        }
        let limit = self
            .functions
            .get(next)
            .map_or(self.span, |function| function.start);
        let stop = self.number(rule::STOP);
        let function = Function {
            start,
            end: start.saturating_add(ENTRY_BYTES).min(limit),
            first_row: self.rows.len(),
            rows: 1,
        };
        self.rows.push((start, stop));
        self.functions.insert(next, function);
    }

    /// All rows in order, equal neighbours merged, with an end marker wherever nothing follows.
    fn merge(&mut self) -> Vec<(u32, u16)> {
        let mut merged = Merged {
            rows: Vec::with_capacity(self.rows.len()),
        };
        let mut end = 0;
        for function in &self.functions {
            if function.start > end && !merged.rows.is_empty() {
                merged.push(end, 0);
            }
            let rows = &self.rows[function.first_row..function.first_row + function.rows];
            for (index, &(start, rule)) in rows.iter().enumerate() {
                // Where functions overlap, the first one has it.
                let row_end = rows.get(index + 1).map_or(function.end, |next| next.0);
                if row_end > end {
                    merged.push(start.max(end), rule);
                }
            }
            end = end.max(function.end);
        }
        if !merged.rows.is_empty() {
            merged.push(end, 0);
        }
        merged.rows
    }

    fn encode(&self, rows: &[(u32, u16)]) -> Table {
        let pages_wanted = (rows.len() / 4).max(1024) as u32;
        let page_bits = (PAGE_BITS_MIN..PAGE_BITS_MAX)
            .find(|bits| self.span >> bits <= pages_wanted)
            .unwrap_or(PAGE_BITS_MAX);
        // The end marker of code that ends at the last page's end would need one page more.
        let span = (self.span + 1).next_multiple_of(1 << page_bits);
        let pages = span >> page_bits;
        let mut words = vec![0; LINE_WORDS];
        let pages_at = words.len();
        let mut row = 0;
        for page in 0..=pages {
            let page_start = u64::from(page) << page_bits;
            row += rows[row..]
                .iter()
                .take_while(|row| u64::from(row.0) < page_start)
                .count();
            words.push(row as u32);
        }
        let rows_at = words.len();
        let mask = (1 << page_bits) - 1;
        words.extend(
            rows.iter()
                .map(|&(start, rule)| (start & mask) << 16 | u32::from(rule)),
        );
        words.resize(words.len().next_multiple_of(RULE_WORDS), 0);
        let rules_at = words.len();
        words.extend(self.rules.iter().flat_map(|rule| rule.to_words()));
        words.resize(words.len().next_multiple_of(LINE_WORDS), 0);
        let header = TableHeader {
            base: self.base,
            span,
            page_bits,
            pages_at: pages_at as u32,
            rows_at: rows_at as u32,
            rules_at: rules_at as u32,
            rows: rows.len() as u32,
            rules: self.rules.len() as u32,
            version: TABLE_VERSION,
        };
        words[..LINE_WORDS].copy_from_slice(&header.to_words());
        Table { words }
    }
}

/// Rows under construction: sorted, no two at one address, no equal neighbours.
struct Merged {
    rows: Vec<(u32, u16)>,
}

impl Merged {
    fn push(&mut self, start: u32, rule: u16) {
        if self.rows.last().is_some_and(|last| last.0 == start) {
            self.rows.pop();
        }
        if self.rows.last().is_none_or(|last| last.1 != rule) {
            self.rows.push((start, rule));
        }
    }
}
