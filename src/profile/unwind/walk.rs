//! The walk of `ebpf/include/unwind.h` in user space, over a captured stack: the same tables, the
//! same steps, function by function under the same names. Change both.
//!
//! It serves stacks that were copied because their process was not known yet, and lets the logic
//! be tested and fuzzed where a debugger reaches.

use super::abi::{
    CODE_BEFORE, FRAMES_MAX, INTERRUPTED, MappingEntry, Outcome, Rule, START_BYTES, cfa, fp,
    mapping_kind,
};
use super::table::Table;

/// Indices in `struct pt_regs` (`arch/x86/include/asm/ptrace.h`).
mod pt_regs {
    pub const BP: usize = 4;
    pub const IP: usize = 16;
    pub const SP: usize = 19;
}

/// Index of the stack pointer in [`Registers`].
pub const STACK_POINTER: usize = pt_regs::SP;

/// `struct pt_regs` of the interrupted code.
pub type Registers = [u64; 21];

/// The memory of the process that is walked.
pub trait Memory {
    /// Fills the buffer from an address; false when that cannot be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;

    /// Reads one 64-bit word.
    fn read_word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }
}

/// Copies of parts of a process's memory: the upper end of its stack, the code at its pc.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// Address of each part's first byte, and what was there.
    pub parts: &'a [(u64, &'a [u8])],
}

impl Memory for Captured<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let bytes = self.parts.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(offset..offset.checked_add(buffer.len())?)
        });
        if let Some(bytes) = bytes {
            buffer.copy_from_slice(bytes);
        }
        bytes.is_some()
    }
}

/// A walk's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Leaf first.
    pub addresses: Vec<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What is done where no call frame information covers the code
/// (`unwind_by_frame_pointers` of the kernel side).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutCfi {
    /// Frame pointers lead on.
    FramePointers,
    /// The stack ends there, unless the code itself tells where its return address is.
    Stop,
}

/// What is known of the process that is walked.
#[derive(Debug, Clone, Copy)]
pub struct AddressSpace<'a> {
    /// Its executable mappings, sorted by address.
    pub mappings: &'a [MappingEntry],
    /// Where the program's arguments begin on its stack, 0 if that is not known.
    pub start_stack: u64,
    /// What to do where no call frame information covers the code.
    pub without_cfi: WithoutCfi,
}

/// Walks from the given registers; `table` finds the table of a mapping.
pub fn unwind_user<'t, M: Memory + ?Sized>(
    registers: &Registers,
    memory: &M,
    process: &AddressSpace<'_>,
    table: impl Fn(u32) -> Option<&'t Table>,
) -> Walk {
    let pc = registers[pt_regs::IP];
    let mut walker = Walker {
        pc,
        sp: registers[pt_regs::SP],
        fp: Some(registers[pt_regs::BP]),
        exact: true,
        registers: Some(registers),
        through_fp: false,
        addresses: vec![pc],
        memory,
        process,
    };
    for _ in 0..FRAMES_MAX {
        if let Err(outcome) = walker.step(&table) {
            return Walk {
                addresses: walker.addresses,
                outcome,
            };
        }
    }
    Walk {
        addresses: walker.addresses,
        outcome: Outcome::TooDeep,
    }
}

struct Walker<'a, M: ?Sized> {
    pc: u64,
    sp: u64,
    fp: Option<u64>,
    exact: bool,
    registers: Option<&'a Registers>,
    through_fp: bool,
    addresses: Vec<u64>,
    memory: &'a M,
    process: &'a AddressSpace<'a>,
}

/// Goes on, or ends with an outcome.
type Step = Result<(), Outcome>;

impl<M: Memory + ?Sized> Walker<'_, M> {
    fn step<'t>(&mut self, table: &impl Fn(u32) -> Option<&'t Table>) -> Step {
        let lookup_pc = self.pc.wrapping_sub(u64::from(!self.exact));
        let Some(mapping) = find_mapping(self.process.mappings, lookup_pc) else {
            if self.through_fp {
                self.addresses.pop();
                return Err(Outcome::BadFramePointer);
            }
            return Err(Outcome::Unmapped);
        };
        if mapping.kind != mapping_kind::TABLE {
            return self.step_by_frame_pointer();
        }
        let table = table(mapping.table).ok_or(Outcome::NoTable)?;
        match table.find_rule(lookup_pc.wrapping_sub(mapping.bias)) {
            None => self.step_without_rule(),
            Some(rule) => match rule.cfa {
                cfa::NONE => self.step_without_rule(),
                cfa::STOP => Err(Outcome::Rooted),
                cfa::SIGNAL => self.step_over_signal(),
                _ => self.step_by_rule(&rule),
            },
        }
    }

    fn enter_caller(&mut self, pc: u64, sp: u64) -> Step {
        self.sp = sp;
        self.pc = pc;
        self.registers = None;
        if pc == 0 {
            return Err(Outcome::Rooted);
        }
        if self.addresses.len() >= FRAMES_MAX {
            return Err(Outcome::TooDeep);
        }
        self.addresses.push(pc);
        Ok(())
    }

    /// Words between the stack pointer and the return address where no frame stands.
    fn words_above_return(&self) -> Option<u64> {
        let mut code = [0; CODE_BEFORE + 4];
        if !self
            .memory
            .read(self.pc.wrapping_sub(CODE_BEFORE as u64), &mut code)
        {
            return None;
        }
        let (before, at) = code.split_at(CODE_BEFORE);
        match *at {
            // push %rbp; push $index; ret; bnd jmp *slot(%rip); endbr64
            [0x55 | 0x68 | 0xc2 | 0xc3, ..] | [0xf2, 0xff, 0x25, _] | [0xf3, 0x0f, 0x1e, 0xfa] => {
                Some(0)
            }
            // mov %rsp,%rbp; push *slot(%rip)
            [0x48, 0x89, 0xe5, _] | [0x48, 0x8b, 0xec, _] | [0xff, 0x35, ..] => Some(1),
            // jmp
            [0xe9, ..] => Some(u64::from(before[1] == 0x68)),
            // jmp *slot(%rip)
            [0xff, 0x25, ..] if before[..2] == [0xff, 0x35] => Some(2),
            [0xff, 0x25, ..] => Some(0),
            _ => None,
        }
    }

    fn step_by_frame_pointer(&mut self) -> Step {
        let words = if self.exact {
            self.words_above_return()
        } else {
            None
        };
        self.through_fp = true;
        if let Some(words) = words {
            let return_at = self.sp.wrapping_add(words * 8);
            let pc = self
                .memory
                .read_word(return_at)
                .ok_or(Outcome::StackUnreadable)?;
            self.exact = false;
            return self.enter_caller(pc, return_at.wrapping_add(8));
        }
        if self.process.without_cfi == WithoutCfi::Stop {
            return Err(Outcome::NoCfi);
        }
        if self.fp == Some(0) {
            return Err(Outcome::Rooted);
        }
        let frame = self.fp.filter(|fp| fp.is_multiple_of(8) && *fp >= self.sp);
        let read = frame.and_then(|fp| Some((fp, self.read_pair(fp)?)));
        let (fp, [caller_fp, pc]) = read.ok_or_else(|| self.outcome_without_frame())?;
        self.fp = Some(caller_fp);
        self.exact = false;
        self.enter_caller(pc, fp.wrapping_add(16))
    }

    fn outcome_without_frame(&self) -> Outcome {
        let left = self.process.start_stack.wrapping_sub(self.sp);
        if !self.exact && left <= START_BYTES {
            return Outcome::Rooted;
        }
        Outcome::BadFramePointer
    }

    fn step_over_signal(&mut self) -> Step {
        let word = |offset: u64| {
            self.memory
                .read_word(self.sp.wrapping_add(offset))
                .ok_or(Outcome::StackUnreadable)
        };
        let (fp, sp, pc) = (word(120)?, word(160)?, word(168)?);
        self.fp = Some(fp);
        self.exact = true;
        self.through_fp = false;
        self.enter_caller(pc, sp)?;
        if let Some(address) = self.addresses.last_mut() {
            *address |= INTERRUPTED;
        }
        Ok(())
    }

    fn step_without_rule(&mut self) -> Step {
        const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
        let mut code = [0; 9];
        if self.memory.read(self.pc, &mut code) && code == SIGNAL_RETURN {
            return self.step_over_signal();
        }
        self.step_by_frame_pointer()
    }

    fn find_cfa(&self, rule: &Rule) -> Result<u64, Outcome> {
        let offset = i64::from(rule.cfa_offset) as u64;
        let (base, offset) = match rule.cfa {
            cfa::SP | cfa::SP_DEREF => (self.sp, offset),
            cfa::FP | cfa::FP_DEREF => (self.fp.ok_or(Outcome::BadCfa)?, offset),
            cfa::REGISTER => {
                let register = self
                    .registers
                    .and_then(|r| r.get(usize::from(rule.cfa_register)));
                (*register.ok_or(Outcome::UnsupportedRule)?, offset)
            }
            cfa::PLT => (
                self.sp,
                if self.pc & 15 >= u64::from(rule.cfa_register) {
                    16
                } else {
                    8
                },
            ),
            _ => return Err(Outcome::UnsupportedRule),
        };
        let cfa = base.wrapping_add(offset);
        if rule.cfa == cfa::SP_DEREF || rule.cfa == cfa::FP_DEREF {
            let saved = self.memory.read_word(cfa).ok_or(Outcome::StackUnreadable)?;
            return Ok(saved.wrapping_add(i64::from(rule.deref_add) as u64));
        }
        Ok(cfa)
    }

    fn step_by_rule(&mut self, rule: &Rule) -> Step {
        let cfa = self.find_cfa(rule)?;
        if cfa <= self.sp {
            return Err(Outcome::BadCfa);
        }
        let read = |base: u64, offset: i32| {
            let address = base.wrapping_add(i64::from(offset) as u64);
            self.memory
                .read_word(address)
                .ok_or(Outcome::StackUnreadable)
        };
        let caller_fp = match rule.fp {
            fp::SAME => self.fp,
            fp::AT_CFA => Some(read(cfa, rule.fp_offset)?),
            // Without a frame pointer of its own such a frame's CFA would not have been found.
            fp::AT_FP => match self.fp {
                Some(fp) => Some(read(fp, rule.fp_offset)?),
                None => None,
            },
            _ => None,
        };
        let pc = read(cfa, i32::from(rule.ra_offset))?;
        self.fp = caller_fp;
        self.exact = false;
        self.through_fp = false;
        self.enter_caller(pc, cfa)
    }

    fn read_pair(&self, address: u64) -> Option<[u64; 2]> {
        let low = self.memory.read_word(address)?;
        let high = self.memory.read_word(address.checked_add(8)?)?;
        Some([low, high])
    }
}

fn find_mapping(mappings: &[MappingEntry], address: u64) -> Option<&MappingEntry> {
    let next = mappings.partition_point(|mapping| mapping.start <= address);
    let mapping = mappings.get(next.checked_sub(1)?)?;
    (address < mapping.end).then_some(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: MappingEntry = MappingEntry {
        start: 0x1000,
        end: 0x2000,
        bias: 0,
        table: 0,
        kind: mapping_kind::FRAME_POINTERS,
    };

    /// Walks made code, a frame of which stands at the stack pointer.
    fn walk_made_code(stack: &[u64], start_stack: u64, without_cfi: WithoutCfi) -> Walk {
        let stack: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let nops = [0x90; 16];
        let parts = [(0x7000, stack.as_slice()), (0x1100 - 8, &nops[..])];
        let mut registers = [0; 21];
        registers[pt_regs::IP] = 0x1100;
        registers[pt_regs::SP] = 0x7000;
        registers[pt_regs::BP] = 0x7000;
        let process = AddressSpace {
            mappings: &[CODE],
            start_stack,
            without_cfi,
        };
        let memory = Captured { parts: &parts };
        unwind_user(&registers, &memory, &process, |_| None)
    }

    #[test]
    fn made_code_is_crossed_by_frame_pointers_unless_these_are_ruled_out() {
        // Two frames: the caller's frame pointer, the return address.
        let walk = |without_cfi| walk_made_code(&[0x7010, 0x1200, 0, 0x1300], 0, without_cfi);
        let crossed = walk(WithoutCfi::FramePointers);
        assert_eq!(crossed.addresses, [0x1100, 0x1200, 0x1300]);
        assert_eq!(crossed.outcome, Outcome::Rooted);
        let stopped = walk(WithoutCfi::Stop);
        assert_eq!(stopped.addresses, [0x1100]);
        assert_eq!(stopped.outcome, Outcome::NoCfi);
    }

    /// As in musl's start of a program: no call frame information, any value in the frame pointer.
    #[test]
    fn what_stands_right_below_the_arguments_is_the_outermost_frame() {
        let outcome = |start_stack| {
            let walk = walk_made_code(&[3, 0x1200], start_stack, WithoutCfi::FramePointers);
            assert_eq!(walk.addresses, [0x1100, 0x1200]);
            walk.outcome
        };
        assert_eq!(outcome(0x7010 + START_BYTES), Outcome::Rooted);
        assert_eq!(outcome(0x7018 + START_BYTES), Outcome::BadFramePointer);
        assert_eq!(outcome(0), Outcome::BadFramePointer);
    }
}
