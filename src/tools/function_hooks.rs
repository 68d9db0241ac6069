//! `funccount`'s programs on what the pattern matched.
//!
//! An attachment's cookie (5.15) tells which function was called. Many kernel functions take one
//! link where the kernel has it (kprobe.multi), else a kprobe each. Before 5.15 a kernel function is
//! told by its address; user functions and tracepoints can only be counted one at a time.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::functions::Targets;
use super::hooks::HookUse;
use super::kernel_side::ReportKey;
use crate::bpf::{Bpf, Link};
use crate::error::Error;

/// The mode whose object this attaches.
const MODE: &str = "funccount";

/// What is counted, and what keeps it so.
#[derive(Debug, Default)]
pub struct Attached {
    /// By cookie.
    names: Vec<String>,
    /// For `--explain-hooks`.
    pub hooks: Vec<HookUse>,
    links: Vec<Link>,
    /// Where there are no cookies: the index of the kernel function that begins here.
    by_address: Option<HashMap<u64, usize>>,
}

impl Attached {
    /// Nothing yet that would be counted, under names that cookies tell.
    pub fn told_by_cookie(names: Vec<String>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// What a tally counts.
    #[must_use]
    pub fn name(&self, key: &ReportKey) -> Option<&str> {
        let index = match &self.by_address {
            Some(indexes) => *indexes.get(&key.detail)?,
            None => key.id as usize,
        };
        self.names.get(index).map(String::as_str)
    }
}

/// A kind of hook and the object's programs for it.
struct Kind {
    name: &'static str,
    program: &'static str,
    with_cookie: &'static str,
    /// Of several, whether the one that was called is known without cookies.
    has_addresses: bool,
}

const KERNEL: Kind = Kind {
    name: "kprobe",
    program: "kernel_function",
    with_cookie: "kernel_function_with_cookie",
    has_addresses: true,
};
const USER: Kind = Kind {
    name: "uprobe",
    program: "user_function",
    with_cookie: "user_function_with_cookie",
    has_addresses: false,
};
const EVENT: Kind = Kind {
    name: "tracepoint",
    program: "event",
    with_cookie: "event_with_cookie",
    has_addresses: false,
};

/// Attaches all that can be attached: some functions cannot be probed, and one of those must not
/// end the others' count.
///
/// # Errors
/// [`Error::NotAvailable`] when nothing could be attached, or what was cannot be told apart.
pub fn attach(bpf: &mut Bpf, targets: Targets) -> Result<Attached> {
    let start = Instant::now();
    let attached = attach_targets(bpf, targets)?;
    tracing::debug!(
        functions = attached.hooks.len(),
        attached_ms = start.elapsed().as_millis() as u64,
    );
    Ok(attached)
}

fn attach_targets(bpf: &mut Bpf, targets: Targets) -> Result<Attached> {
    match targets {
        Targets::Kernel(functions) => match attach_many(bpf, &functions) {
            Ok(attached) => Ok(attached),
            Err(error) => {
                let why = format!(
                    "kprobe each (4.17); not kprobe.multi: {}",
                    error.root_cause()
                );
                let link = |bpf: &mut Bpf, program: &str, index: usize, cookie| {
                    let name = functions.get(index).map_or("", String::as_str);
                    bpf.link_function(program, name, cookie).map(Some)
                };
                one_by_one(bpf, &KERNEL, &functions, &why, link)
            }
        },
        Targets::Tracepoints(events) => {
            let names: Vec<_> = events.iter().map(|(name, _)| name.clone()).collect();
            one_by_one(
                bpf,
                &EVENT,
                &names,
                "tracepoint",
                |bpf, program, index, cookie| {
                    let id = events.get(index).map_or(0, |(_, id)| *id);
                    bpf.link_tracepoint(program, id, cookie).map(Some)
                },
            )
        }
        Targets::User(path, functions) => {
            let names: Vec<_> = functions.iter().map(|(name, _)| name.clone()).collect();
            one_by_one(
                bpf,
                &USER,
                &names,
                "uprobe",
                |bpf, program, index, cookie| {
                    let offset = functions.get(index).map_or(0, |(_, offset)| *offset);
                    bpf.attach_uprobe(program, &path, offset, cookie)?;
                    Ok(None)
                },
            )
        }
    }
}

/// All functions by one link.
fn attach_many(bpf: &Bpf, names: &[String]) -> Result<Attached> {
    let multi = bpf.link_functions(MODE, KERNEL.with_cookie, names)?;
    if let (true, Some((index, error))) = (multi.links.is_empty(), multi.refused.first()) {
        let name = names.get(*index).map_or("", String::as_str);
        anyhow::bail!("{name}: {error}");
    }
    if let Some((index, error)) = multi.refused.first() {
        let name = names.get(*index).map_or("", String::as_str);
        warn_of_refused(multi.refused.len(), names.len(), name, error);
    }
    let refused: HashSet<usize> = multi.refused.iter().map(|(index, _)| *index).collect();
    let attached = names
        .iter()
        .enumerate()
        .filter(|(index, _)| !refused.contains(index));
    let hooks = attached
        .map(|(_, name)| HookUse {
            hook: format!("kprobe.multi:{name}"),
            program: KERNEL.with_cookie,
            why: "calls of what the pattern matches, all by one link (5.18)".to_owned(),
        })
        .collect();
    Ok(Attached {
        hooks,
        links: multi.links,
        ..Attached::told_by_cookie(names.to_owned())
    })
}

fn one_by_one(
    bpf: &mut Bpf,
    kind: &Kind,
    names: &[String],
    why: &str,
    link: impl Fn(&mut Bpf, &str, usize, Option<u64>) -> Result<Option<Link>>,
) -> Result<Attached> {
    let has_cookies = bpf.load_probe(kind.with_cookie).is_ok();
    let program = if has_cookies {
        kind.with_cookie
    } else {
        bpf.load_probe(kind.program)?;
        kind.program
    };
    let mut attached = Attached::told_by_cookie(names.to_owned());
    if !has_cookies && kind.has_addresses {
        attached.by_address = Some(addresses(names)?);
    } else if !has_cookies && names.len() > 1 {
        return Err(cannot_tell_apart(kind, names).into());
    }
    let mut refused = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match link(bpf, program, index, has_cookies.then_some(index as u64)) {
            Ok(link) => {
                attached.links.extend(link);
                attached.hooks.push(HookUse {
                    hook: format!("{}:{name}", kind.name),
                    program,
                    why: format!("calls of what the pattern matches: {why}"),
                });
            }
            // No way at all, as opposed to this one function's.
            Err(error) if error.downcast_ref::<Error>().is_some() => return Err(error),
            Err(error) => refused.push((name, error)),
        }
    }
    if let Some((name, error)) = refused.first() {
        if attached.hooks.is_empty() {
            return Err(Error::NotAvailable {
                problem: format!("nothing could be attached; {name}: {error:#}"),
                remedy: "count tracepoints (t:CATEGORY:EVENT) or user functions \
                         (LIBRARY:FUNCTION, /PATH:FUNCTION) instead"
                    .into(),
            }
            .into());
        }
        warn_of_refused(refused.len(), names.len(), name, error);
    }
    Ok(attached)
}

fn warn_of_refused(refused: usize, all: usize, name: &str, error: &dyn std::fmt::Display) {
    tracing::warn!("{refused} of {all} could not be attached, {name} among them: {error:#}");
}

fn cannot_tell_apart(kind: &Kind, names: &[String]) -> Error {
    let one = names.first().map_or("", String::as_str);
    Error::NotAvailable {
        problem: format!(
            "the pattern matches {} and more, {} in all, and this kernel does not tell which \
             {} ran (attachment cookies: 5.15)",
            one,
            names.len(),
            kind.name
        ),
        remedy: "count one at a time".into(),
    }
}

/// Where these functions begin.
fn addresses(names: &[String]) -> Result<HashMap<u64, usize>> {
    let path = Path::new("/proc/kallsyms");
    let kallsyms =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = addresses_in(&kallsyms, names);
    if found.is_empty() {
        return Err(Error::NotAvailable {
            problem: "this kernel tells a function by its address only (attachment cookies: \
                      5.15), and hides all addresses"
                .into(),
            remedy: "run as root or with CAP_SYSLOG, and sysctl kernel.kptr_restrict=1".into(),
        }
        .into());
    }
    Ok(found)
}

/// Several functions may share a name; the probe is on one of them, the others never show up.
fn addresses_in(kallsyms: &str, names: &[String]) -> HashMap<u64, usize> {
    let indexes: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
    let mut found = HashMap::new();
    for line in kallsyms.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let address = u64::from_str_radix(address, 16).unwrap_or(0);
        if let (Some(index), true) = (indexes.get(name), address != 0) {
            found.insert(address, *index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "ffffffff81000010 T vfs_read\nffffffff81000100 t ext4_map\t[ext4]\n\
                            ffffffff81000200 T vfs_write\n0000000000000000 T hidden\nnonsense\n";

    #[test]
    fn a_kernel_function_is_told_by_its_address() {
        let names = ["ext4_map", "vfs_read", "hidden"].map(str::to_owned);
        let found = addresses_in(KALLSYMS, &names);
        let expected = HashMap::from([(0xffff_ffff_8100_0010, 1), (0xffff_ffff_8100_0100, 0)]);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tally_has_its_name_by_cookie_or_by_address() {
        let key = |id, detail| ReportKey {
            epoch: 0,
            id,
            detail,
            comm: [0; 16],
        };
        let names = ["vfs_read", "vfs_write"].map(str::to_owned);
        let mut attached = Attached::told_by_cookie(names.into());
        assert_eq!(attached.name(&key(1, 0)), Some("vfs_write"));
        assert_eq!(attached.name(&key(2, 0)), None);
        attached.by_address = Some(HashMap::from([(0x10, 1)]));
        assert_eq!(attached.name(&key(0, 0x10)), Some("vfs_write"));
        assert_eq!(attached.name(&key(0, 0x11)), None);
    }
}
