//! What the kernel's type information says about its hooks.
//!
//! Hooks change with the kernel, and distributions backport the changes, so versions say nothing:
//! `block_rq_issue` lost a parameter in 5.11 and in 5.10.137. BTF tells what this kernel has.
//! Format: Documentation/bpf/btf.rst.

use std::collections::HashMap;

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

/// The tracepoints and functions of the running kernel.
#[derive(Debug, Default)]
pub struct KernelBtf {
    tracepoints: HashMap<String, Vec<Parameter>>,
    functions: HashMap<String, Vec<Parameter>>,
}

impl KernelBtf {
    /// Reads `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When the kernel has no BTF or it cannot be understood.
    pub fn read() -> Result<Self> {
        let path = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&bytes)
    }

    /// The parameters of a tracepoint (without the first, hidden one), if the kernel has it.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<&[Parameter]> {
        self.tracepoints.get(name).map(Vec::as_slice)
    }

    /// The parameters of a function, if the kernel has one of this name that was not inlined.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&[Parameter]> {
        self.functions.get(name).map(Vec::as_slice)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let table = Table::new(bytes).context("the kernel's BTF is damaged")?;
        let mut found = Self::default();
        for entry in &table.types {
            let Some(name) = table.name(entry.name) else {
                continue;
            };
            match entry.kind {
                KIND_TYPEDEF => {
                    if let Some(hook) = name.strip_prefix("btf_trace_") {
                        // typedef → pointer → prototype; the first parameter is the probe's data.
                        let prototype = table.get(entry.target).map(|p| p.target);
                        let mut parameters = table.parameters(prototype.unwrap_or(0));
                        if !parameters.is_empty() {
                            parameters.remove(0);
                        }
                        found.tracepoints.insert(hook.to_owned(), parameters);
                    }
                }
                KIND_FUNC => {
                    let parameters = table.parameters(entry.target);
                    found.functions.insert(name.to_owned(), parameters);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

struct Type {
    name: u32,
    kind: u32,
    count: usize,
    target: u32,
    /// Where what follows the type's head begins.
    extra: usize,
}

struct Table<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    types: Vec<Type>,
}

impl<'a> Table<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let header = |index: usize| word(bytes, 4 * index).map(|word| word as usize);
        let magic = word(bytes, 0).unwrap_or(0) & 0xffff;
        ensure!(magic == 0xeb9f, "not BTF of this machine's byte order");
        let parse = || {
            let base = header(1)?;
            let types = base.checked_add(header(2)?)?;
            let types_end = types.checked_add(header(3)?)?;
            let strings = base.checked_add(header(4)?)?;
            let strings_end = strings.checked_add(header(5)?)?;
            let strings = bytes.get(strings..strings_end)?;
            let mut table = Self {
                bytes,
                strings,
                types: Vec::new(),
            };
            let mut at = types;
            while at < types_end {
                let info = word(bytes, at + 4)?;
                let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
                table.types.push(Type {
                    name: word(bytes, at)?,
                    kind,
                    count,
                    target: word(bytes, at + 8)?,
                    extra: at + 12,
                });
                at += 12 + extra_bytes(kind, count);
            }
            Some(table)
        };
        parse().context("shorter than its header says")
    }

    /// Types are numbered from 1; 0 is `void`.
    fn get(&self, id: u32) -> Option<&Type> {
        self.types.get((id as usize).checked_sub(1)?)
    }

    fn name(&self, offset: u32) -> Option<&'a str> {
        let rest = self.strings.get(offset as usize..)?;
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
            .filter_map(|index| word(self.bytes, prototype.extra + 8 * index + 4))
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
            assert!(KernelBtf::parse(&bytes[..length]).is_err());
        }
    }
}
