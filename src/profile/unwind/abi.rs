//! What the unwinder's two sides agree on. The other side, with the reasons, is
//! `ebpf/include/unwind_abi.h`; a test compares the two.

/// Frames one walk can gather.
pub const FRAMES_MAX: usize = 512;
/// Rules that each CPU remembers.
pub const KNOWN_RULES_PER_CPU: u32 = 2048;
/// Bit in an address of a stack: execution stood there when a signal came
/// (`UNWIND_INTERRUPTED`).
pub const INTERRUPTED: u64 = 1 << 63;
/// Tables loaded at one time.
pub const TABLES_MAX: u32 = 8192;
/// Executable mappings of all processes together.
pub const MAPPINGS_MAX: u32 = 65536;
/// Words of one element of a table's BPF array.
pub const LINE_WORDS: usize = 16;
/// Bits of an address within its page that a row can hold.
pub const PAGE_BITS_MAX: u32 = 16;
/// Bytes of code before pc that tell a linkage stub's instructions apart.
pub const CODE_BEFORE: usize = 6;
/// A program's first frames take no more bytes than so many until `main` is called.
pub const START_BYTES: u64 = 64;
/// Changes whenever the meaning of a table's words does.
pub const TABLE_VERSION: u32 = 1;

/// The first line of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableHeader {
    /// ELF address of page 0.
    pub base: u64,
    /// Bytes of address space the pages cover.
    pub span: u32,
    /// Binary logarithm of a page's size in bytes.
    pub page_bits: u32,
    /// Word index of the page index.
    pub pages_at: u32,
    /// Word index of the rows.
    pub rows_at: u32,
    /// Word index of the rules.
    pub rules_at: u32,
    /// Number of rows.
    pub rows: u32,
    /// Number of rules.
    pub rules: u32,
    /// [`TABLE_VERSION`].
    pub version: u32,
}

impl TableHeader {
    /// The header as a table's first line.
    #[must_use]
    pub fn to_words(self) -> [u32; LINE_WORDS] {
        let mut words = [0; LINE_WORDS];
        words[0] = self.base as u32;
        words[1] = (self.base >> 32) as u32;
        words[2] = self.span;
        words[3] = self.page_bits;
        words[4] = self.pages_at;
        words[5] = self.rows_at;
        words[6] = self.rules_at;
        words[7] = self.rows;
        words[8] = self.rules;
        words[9] = self.version;
        words
    }

    /// The header behind a table's first line.
    #[must_use]
    pub fn from_words(words: &[u32; LINE_WORDS]) -> Self {
        Self {
            base: u64::from(words[0]) | u64::from(words[1]) << 32,
            span: words[2],
            page_bits: words[3],
            pages_at: words[4],
            rows_at: words[5],
            rules_at: words[6],
            rows: words[7],
            rules: words[8],
            version: words[9],
        }
    }
}

/// How a rule finds the canonical frame address (CFA): the caller's stack pointer.
pub mod cfa {
    /// No call frame information covers this address.
    pub const NONE: u8 = 0;
    /// Stack pointer + offset.
    pub const SP: u8 = 1;
    /// Frame pointer + offset.
    pub const FP: u8 = 2;
    /// Another register + offset: known in the interrupted function only.
    pub const REGISTER: u8 = 3;
    /// `sp + 8 + ((pc & 15) >= threshold ? 8 : 0)`: a PLT entry.
    pub const PLT: u8 = 4;
    /// `*(sp + offset) + add`.
    pub const SP_DEREF: u8 = 5;
    /// `*(fp + offset) + add`.
    pub const FP_DEREF: u8 = 6;
    /// The return address is undefined: the outermost frame.
    pub const STOP: u8 = 7;
    /// The kernel built this frame to run a signal handler.
    pub const SIGNAL: u8 = 8;
    /// Something valid that the walk does not do.
    pub const UNSUPPORTED: u8 = 9;
}

/// How a rule finds the caller's frame pointer.
pub mod fp {
    /// Unchanged.
    pub const SAME: u8 = 0;
    /// `*(cfa + offset)`.
    pub const AT_CFA: u8 = 1;
    /// `*(fp + offset)`.
    pub const AT_FP: u8 = 2;
    /// Nobody knows.
    pub const UNDEFINED: u8 = 3;
}

/// How to get from a frame to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    /// One of [`cfa`].
    pub cfa: u8,
    /// A register as its index in `struct pt_regs`, or the threshold of a PLT entry.
    pub cfa_register: u8,
    /// One of [`fp`].
    pub fp: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset from the register, in bytes.
    pub cfa_offset: i32,
    /// Where the frame pointer was saved, in bytes from what [`Rule::fp`] says.
    pub fp_offset: i32,
    /// Added to what a dereferencing CFA read.
    pub deref_add: i16,
    /// The return address is at CFA + this.
    pub ra_offset: i16,
}

impl Rule {
    /// The rule as a table holds it.
    #[must_use]
    pub fn to_words(self) -> [u32; 4] {
        [
            u32::from_le_bytes([self.cfa, self.cfa_register, self.fp, self.reserved]),
            self.cfa_offset as u32,
            self.fp_offset as u32,
            u32::from(self.deref_add as u16) | u32::from(self.ra_offset as u16) << 16,
        ]
    }

    /// The rule behind a table's words.
    #[must_use]
    pub fn from_words(words: [u32; 4]) -> Self {
        let [cfa, cfa_register, fp, reserved] = words[0].to_le_bytes();
        Self {
            cfa,
            cfa_register,
            fp,
            reserved,
            cfa_offset: words[1] as i32,
            fp_offset: words[2] as i32,
            deref_add: words[3] as u16 as i16,
            ra_offset: (words[3] >> 16) as u16 as i16,
        }
    }
}

/// One executable mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct MappingEntry {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Address - bias = ELF address.
    pub bias: u64,
    /// Number of the module's table.
    pub table: u32,
    /// One of [`mapping_kind`].
    pub kind: u32,
}

/// What is mapped.
pub mod mapping_kind {
    /// A file with a table.
    pub const TABLE: u32 = 0;
    /// Anonymous memory (a JIT's code) or a file without a table.
    pub const FRAME_POINTERS: u32 = 1;
}

/// A process's run of [`MappingEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ProcessEntry {
    /// Index of the first mapping.
    pub first: u32,
    /// Number of mappings.
    pub count: u32,
    /// `task_struct::self_exec_id` of the image the run describes.
    pub exec_id: u32,
    /// Whether `exec_id` is filled in; the kernel side does it at the first sample.
    pub exec_id_known: u32,
    /// The run's serial number.
    pub run: u32,
    /// Makes the next field's place explicit.
    pub reserved: u32,
    /// Where the image has its vDSO, 0 if that is not known.
    pub vdso: u64,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// Reached the outermost frame.
    Rooted = 1,
    /// More frames than [`FRAMES_MAX`].
    TooDeep = 2,
    /// No mappings are known for the process (yet).
    UnknownProcess = 3,
    /// No mapping is known for the last address (yet).
    Unmapped = 4,
    /// The mapping's table is not loaded (yet).
    NoTable = 5,
    /// A CFI form that the walk does not do.
    UnsupportedRule = 6,
    /// The frame's memory could not be read.
    StackUnreadable = 7,
    /// The CFA does not lie above the stack pointer.
    BadCfa = 8,
    /// Code without CFI, and no frame pointer to go by.
    BadFramePointer = 9,
    /// A 32-bit program.
    Compat = 10,
    /// No user stack at all.
    NoUser = 11,
    /// No CFI covers the code, and frame pointers were ruled out.
    NoCfi = 12,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 12] = [
        Self::Rooted,
        Self::TooDeep,
        Self::UnknownProcess,
        Self::Unmapped,
        Self::NoTable,
        Self::UnsupportedRule,
        Self::StackUnreadable,
        Self::BadCfa,
        Self::BadFramePointer,
        Self::Compat,
        Self::NoUser,
        Self::NoCfi,
    ];

    /// The outcome behind the kernel side's number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| *outcome as u32 == number)
    }

    /// The cause as the quality block names it.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Rooted => "rooted",
            Self::TooDeep => "deeper than 512 frames",
            Self::UnknownProcess => "process not known yet",
            Self::Unmapped => "code not known yet",
            Self::NoTable => "unwind table not loaded yet",
            Self::UnsupportedRule => "unsupported call frame information",
            Self::StackUnreadable => "stack memory unreadable",
            Self::BadCfa => "implausible frame address",
            Self::BadFramePointer => "no call frame information and no frame pointer",
            Self::Compat => "32-bit program",
            Self::NoUser => "no user stack",
            Self::NoCfi => "no call frame information",
        }
    }
}
