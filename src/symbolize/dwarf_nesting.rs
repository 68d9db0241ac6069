//! How deep a file's DWARF nests inlined functions. blazesym reads them by recursion, a level for
//! each that stands inside of another, and a level can cost a file no more than one byte: a few
//! kilobytes could overflow a thread's stack, which nothing can catch.

use std::time::{Duration, Instant};

use gimli::{
    DW_TAG_inlined_subroutine, DebugAbbrev, DebugInfo, EndianSlice, NativeEndian, UnitHeader,
};
use object::{Object, ObjectSection};

/// Far beyond what compilers do, and a level's share of a worker's 2 MiB is 4 KiB: several times
/// what it takes.
const NESTED_MAX: usize = 512;

/// A few hundred megabytes of DWARF are read in a second. What takes longer than this was made to.
const TIME_MAX: Duration = Duration::from_secs(10);

/// The clock is looked at each time so many entries have been read.
const ENTRIES_PER_LOOK: usize = 1024;

type Slice<'data> = EndianSlice<'data, NativeEndian>;

/// Whether blazesym can read all inlined functions of an ELF file.
#[must_use]
pub fn is_bearable(data: &[u8]) -> bool {
    let Ok(file) = object::File::parse(data) else {
        return false;
    };
    let section = |name| {
        let section = file.section_by_name(name);
        section.map_or(Ok(&[][..]), |section| section.data())
    };
    let (Ok(info), Ok(abbreviations)) = (section(".debug_info"), section(".debug_abbrev")) else {
        return false;
    };
    let abbreviations = DebugAbbrev::new(abbreviations, NativeEndian);
    let deadline = Instant::now() + TIME_MAX;
    let mut units = DebugInfo::new(info, NativeEndian).units();
    while let Ok(Some(unit)) = units.next() {
        // Where we cannot read on, blazesym cannot either.
        let nesting = nesting(&unit, &abbreviations, deadline).unwrap_or(Nesting::Bearable);
        if nesting == Nesting::TooDeep {
            return false;
        }
    }
    true
}

#[derive(Debug, PartialEq, Eq)]
enum Nesting {
    Bearable,
    /// Or too much to find out.
    TooDeep,
}

fn nesting(
    unit: &UnitHeader<Slice<'_>>,
    abbreviations: &DebugAbbrev<Slice<'_>>,
    deadline: Instant,
) -> gimli::Result<Nesting> {
    if Instant::now() > deadline {
        return Ok(Nesting::TooDeep);
    }
    let abbreviations = unit.abbreviations(abbreviations)?;
    let mut entries = unit.entries_raw(&abbreviations, None)?;
    // Depths in the tree of the inlined functions around the entry.
    let mut around = Vec::new();
    let mut count = 0;
    while !entries.is_empty() {
        count += 1;
        if count % ENTRIES_PER_LOOK == 0 && Instant::now() > deadline {
            return Ok(Nesting::TooDeep);
        }
        let depth = entries.next_depth();
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        while around.last().is_some_and(|outer| *outer >= depth) {
            around.pop();
        }
        if abbreviation.tag() == DW_TAG_inlined_subroutine {
            around.push(depth);
            if around.len() > NESTED_MAX {
                return Ok(Nesting::TooDeep);
            }
        }
        entries.skip_attributes(abbreviation.attributes())?;
    }
    Ok(Nesting::Bearable)
}
