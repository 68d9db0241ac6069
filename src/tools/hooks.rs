//! From what a tool needs to see to the hooks this kernel has for it.
//!
//! A need has ways in order of preference. The first one that the kernel's types fit and that
//! attaches is taken; a need without a way ends the run with status 3 and names the hook, since
//! when kernels have it, and what to use instead.

use std::fmt::Write as _;

use anyhow::Result;

use crate::bpf::{Bpf, Hook, KernelBtf, Parameter};
use crate::error::Error;

/// What the kernel's types must look like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// The hook exists.
    Any,
    /// It has this many parameters.
    Parameters(usize),
    /// It has at least `.0` parameters, and number `.1` (from 0) is passed as `.2`.
    Passes(usize, usize, Parameter),
    /// A function of a module, which the kernel's own types do not list: attaching tells.
    OfModule,
}

/// One way to see something: programs of the object on their hooks, all or none.
#[derive(Debug)]
pub struct Way {
    /// Program and hook.
    pub attach: &'static [(&'static str, Hook)],
    /// What the first hook must look like.
    pub shape: Shape,
    /// The kernels that have it, for messages.
    pub since: &'static str,
}

/// Something a tool needs to see.
#[derive(Debug)]
pub struct Need {
    /// In a word or two: "completion of requests".
    pub what: &'static str,
    /// In order of preference.
    pub ways: &'static [Way],
    /// What to use where no way works.
    pub instead: &'static str,
    /// Whether the tool can do without on kernels that lack the hook.
    pub optional: bool,
}

/// A hook in use.
#[derive(Debug, Clone)]
pub struct HookUse {
    /// The hook, as `kind:name`.
    pub hook: String,
    /// Program of the object.
    pub program: &'static str,
    /// What it is for, and why this way was taken.
    pub why: String,
}

/// Attaches every need's best way.
///
/// # Errors
/// [`Error::NotAvailable`] when a need that is not optional has no way.
pub fn attach(bpf: &mut Bpf, kernel: &KernelBtf, needs: &[&Need]) -> Result<Vec<HookUse>> {
    let mut used = Vec::new();
    for need in needs {
        match attach_need(bpf, kernel, need) {
            Ok(mut hooks) => used.append(&mut hooks),
            Err(_) if need.optional && !any_way_fits(kernel, need) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(used)
}

fn any_way_fits(kernel: &KernelBtf, need: &Need) -> bool {
    need.ways.iter().any(|way| misfit(kernel, way).is_none())
}

fn attach_need(bpf: &mut Bpf, kernel: &KernelBtf, need: &Need) -> Result<Vec<HookUse>> {
    let mut refused = Vec::new();
    for way in need.ways {
        let failure = misfit(kernel, way).or_else(|| attach_way(bpf, way).err());
        match failure {
            None => return Ok(explain(need, way, &refused)),
            Some(why) => refused.push((way, why)),
        }
    }
    let mut problem = format!("this kernel has no usable hook for {}:", need.what);
    for (way, why) in &refused {
        let _ = write!(problem, "\n    {} ({}): {why}", names(way), way.since);
    }
    Err(Error::NotAvailable {
        problem,
        remedy: need.instead.to_owned(),
    }
    .into())
}

/// Programs that attached before the failure of a later one stay, and do harm: a way is verified
/// by its first hook, so the order in `attach` matters where there are several.
fn attach_way(bpf: &mut Bpf, way: &Way) -> Result<(), String> {
    for (program, hook) in way.attach {
        bpf.attach(program, *hook).map_err(|error| {
            tracing::debug!("{program} on {hook}: {error:#}");
            let cause = error.root_cause().to_string();
            cause.lines().next().unwrap_or_default().to_owned()
        })?;
    }
    Ok(())
}

fn names(way: &Way) -> String {
    let hooks: Vec<_> = way
        .attach
        .iter()
        .map(|(_, hook)| hook.to_string())
        .collect();
    hooks.join(" + ")
}

fn explain(need: &Need, way: &Way, refused: &[(&Way, String)]) -> Vec<HookUse> {
    let mut why = format!("{} ({})", need.what, way.since);
    for (other, reason) in refused {
        let _ = write!(why, "; not {}: {reason}", names(other));
    }
    way.attach
        .iter()
        .map(|(program, hook)| HookUse {
            hook: hook.to_string(),
            program,
            why: why.clone(),
        })
        .collect()
}

/// Why a way does not fit this kernel's types, if it does not.
fn misfit(kernel: &KernelBtf, way: &Way) -> Option<String> {
    let (_, hook) = way.attach.first()?;
    if matches!(way.shape, Shape::OfModule) {
        return None;
    }
    let parameters = match hook {
        Hook::TpBtf(name) | Hook::RawTp(name) => kernel.tracepoint(name),
        Hook::Kprobe(name) | Hook::Kretprobe(name) | Hook::Fentry(name) | Hook::Fexit(name) => {
            kernel.function(name)
        }
        // Not in BTF under a name that can be derived; attaching tells.
        Hook::Tracepoint(..) => return None,
    };
    let Some(parameters) = parameters else {
        return Some("not in this kernel".to_owned());
    };
    let fits = match way.shape {
        Shape::Any | Shape::OfModule => true,
        Shape::Parameters(count) => parameters.len() == count,
        Shape::Passes(count, index, kind) => {
            parameters.len() >= count && parameters.get(index) == Some(&kind)
        }
    };
    (!fits).then(|| format!("has {} parameters of another kind here", parameters.len()))
}
