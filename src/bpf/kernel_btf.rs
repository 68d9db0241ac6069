//! What the kernel's type information says about its hooks.
//!
//! Hooks change with the kernel, and distributions backport the changes, so versions say nothing:
//! `block_rq_issue` lost a parameter in 5.11 and in 5.10.137. BTF tells what this kernel has.
//! Format: Documentation/bpf/btf.rst.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// How a parameter is passed, as far as hooks are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// An address.
    Pointer,
    /// Anything else.
    Scalar,
}

/// The types of the running kernel, as it shows them. A tool asks for a handful of names among a
/// hundred thousand, so they are looked for when asked for.
#[derive(Debug, Default)]
pub struct KernelBtf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Where each type begins.
    types: Vec<u32>,
}

struct Type {
    name: u32,
    kind: u32,
    count: usize,
    target: u32,
    /// Where what follows the type's head begins.
    extra: usize,
}

impl KernelBtf {
    /// Reads `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When the kernel has no BTF or it cannot be understood.
    pub fn read() -> Result<Self> {
        let path = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(bytes)
    }

    /// The parameters of a tracepoint (without the first, hidden one), if the kernel has it.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Parameter>> {
        let name = format!("btf_trace_{name}");
        let mut named = self.of_kind(KIND_TYPEDEF);
        let (_, entry) = named.find(|(found, _)| *found == name)?;
        // typedef → pointer → prototype; the first parameter is the probe's data.
        let prototype = self.get(entry.target)?.target;
        Some(self.parameters(prototype).into_iter().skip(1).collect())
    }

    /// The parameters of a function, if the kernel has one of this name that was not inlined.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Vec<Parameter>> {
        let mut named = self.of_kind(KIND_FUNC);
        let (_, entry) = named.find(|(found, _)| *found == name)?;
        Some(self.parameters(entry.target))
    }

    fn of_kind(&self, kind: u32) -> impl Iterator<Item = (&str, Type)> {
        let types = self.types.iter();
        let types = types.filter_map(|at| type_at(&self.bytes, *at as usize));
        let of_kind = types.filter(move |entry| entry.kind == kind);
        of_kind.filter_map(|entry| Some((self.name(entry.name)?, entry)))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let magic = word(&bytes, 0).unwrap_or(0) & 0xffff;
        ensure!(magic == 0xeb9f, "not BTF of this machine's byte order");
        let parse = || {
            let header = |index: usize| word(&bytes, 4 * index).map(|word| word as usize);
            let base = header(1)?;
            let start = base.checked_add(header(2)?)?;
            let end = start.checked_add(header(3)?)?;
            let strings = base.checked_add(header(4)?)?;
            let strings = strings..strings.checked_add(header(5)?)?;
            bytes.get(strings.clone())?;
            let mut types = Vec::new();
            let mut at = start;
            while at < end {
                let entry = type_at(&bytes, at)?;
                types.push(at as u32);
                at = entry.extra + extra_bytes(entry.kind, entry.count);
            }
            Some((strings, types))
        };
        let (strings, types) =
            parse().context("the kernel's BTF is shorter than its header says")?;
        Ok(Self {
            bytes,
            strings,
            types,
        })
    }

    /// Types are numbered from 1; 0 is `void`.
    fn get(&self, id: u32) -> Option<Type> {
        let at = self.types.get((id as usize).checked_sub(1)?)?;
        type_at(&self.bytes, *at as usize)
    }

    fn name(&self, offset: u32) -> Option<&str> {
        let strings = self.bytes.get(self.strings.clone())?;
        let rest = strings.get(offset as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    fn parameters(&self, prototype: u32) -> Vec<Parameter> {
        let Some(prototype) = self
            .get(prototype)
            .filter(|entry| entry.kind == KIND_FUNC_PROTO)
        else {
            return Vec::new();
        };
        (0..prototype.count)
            .filter_map(|index| word(&self.bytes, prototype.extra + 8 * index + 4))
            .map(|id| self.passed_as(id))
            .collect()
    }

    fn passed_as(&self, mut id: u32) -> Parameter {
        // A chain of typedefs and qualifiers is short; damaged BTF may have a ring.
        for _ in 0..16 {
            match self.get(id) {
                Some(entry) if entry.kind == KIND_PTR => return Parameter::Pointer,
                Some(entry) if (KIND_TYPEDEF..KIND_FUNC).contains(&entry.kind) => {
                    id = entry.target;
                }
                _ => break,
            }
        }
        Parameter::Scalar
    }
}

fn type_at(bytes: &[u8], at: usize) -> Option<Type> {
    let info = word(bytes, at + 4)?;
    Some(Type {
        name: word(bytes, at)?,
        kind: (info >> 24) & 0x1f,
        count: (info & 0xffff) as usize,
        target: word(bytes, at + 8)?,
        extra: at + 12,
    })
}

fn extra_bytes(kind: u32, count: usize) -> usize {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

// Typedef, volatile, const and restrict lie between these two.
const _: () = assert!(KIND_TYPEDEF < KIND_CONST && KIND_CONST < KIND_FUNC);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_hooks_are_found() {
        let btf = KernelBtf::read().unwrap();
        let switch = btf.tracepoint("sched_switch").unwrap();
        assert_eq!(
            switch[..3],
            [Parameter::Scalar, Parameter::Pointer, Parameter::Pointer]
        );
        assert!(btf.function("vfs_read").is_some());
        assert_eq!(btf.tracepoint("no_such_hook"), None);
    }

    #[test]
    fn damaged_btf_is_an_error_at_every_length() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for length in (0..bytes.len()).step_by(bytes.len() / 50) {
            assert!(KernelBtf::parse(bytes[..length].to_vec()).is_err());
        }
    }
}
