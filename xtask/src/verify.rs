//! Hands every program of BPF objects to this kernel's verifier: what runs inside a guest.
//!
//! Each object is loaded twice: as it is, and with all its switches on. The verifier leaves out
//! code behind a constant that is false, so that one load alone would prove only half.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// Loads the objects and prints a line for each program: object, switches, program, result.
///
/// # Errors
/// When a program was refused and has no twin that is accepted; the verifier's log is then on
/// stdout in full.
pub fn run(objects: &[PathBuf]) -> Result<()> {
    let btf = Btf::from_sys_fs().context("this kernel has no BTF")?;
    let mut refused = Vec::new();
    for path in objects {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let plan = Plan::read(&bytes).with_context(|| path.display().to_string())?;
        let object = object_name(path);
        for switches_on in [false, true] {
            let switches = if switches_on { "on" } else { "off" };
            match load(&bytes, &plan, switches_on, &btf) {
                Ok(verdicts) => {
                    for (program, verdict) in &verdicts {
                        println!("{object} switches={switches} {program} {verdict}");
                    }
                    let names = refused_families(&verdicts).into_iter();
                    refused.extend(names.map(|name| format!("{object} {name} ({switches})")));
                }
                Err(error) => {
                    refused.push(format!("{object} ({switches})"));
                    println!("{object} switches={switches} * refused\n{error:#}");
                }
            }
        }
    }
    ensure!(refused.is_empty(), "refused: {}", refused.join(", "));
    Ok(())
}

/// The hooks for which this kernel accepts no program. Twins of one hook, for kernels that hand it
/// other arguments, are called `hook` and `hook_with_more`; a kernel accepts one of them.
fn refused_families(verdicts: &[(String, Verdict)]) -> BTreeSet<&str> {
    let mut refused = BTreeSet::new();
    let mut accepted = BTreeSet::new();
    for (program, verdict) in verdicts {
        let family = program.split("_with_").next().unwrap_or(program);
        match verdict {
            Verdict::Refused(_) => refused.insert(family),
            Verdict::Accepted(_) => accepted.insert(family),
            Verdict::NoSuchHook => continue,
        };
    }
    &refused - &accepted
}

/// What the kernel said of a program.
#[derive(Debug)]
enum Verdict {
    /// Accepted, after looking at so many instructions where the kernel tells (5.16).
    Accepted(Option<u32>),
    /// The function or tracepoint is not there: a tool takes another hook.
    NoSuchHook,
    /// The verifier's words.
    Refused(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepted(Some(instructions)) => write!(out, "ok {instructions}"),
            Self::Accepted(None) => write!(out, "ok"),
            Self::NoSuchHook => write!(out, "no such hook"),
            Self::Refused(log) => write!(out, "refused\n{log}"),
        }
    }
}

/// What an object's ELF says about itself that the loader does not hand out.
#[derive(Debug, Default)]
struct Plan {
    /// The section of each program: what it attaches to.
    sections: HashMap<String, String>,
    /// Name and size of the constants that the loader sets before loading.
    switches: Vec<(String, usize)>,
}

impl Plan {
    fn read(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes)?;
        let mut plan = Self::default();
        for symbol in file.symbols().filter(ObjectSymbol::is_global) {
            let Some(index) = symbol.section_index() else {
                continue;
            };
            let name = symbol.name()?.to_owned();
            let section = file.section_by_index(index)?.name()?.to_owned();
            if symbol.kind() == SymbolKind::Text {
                plan.sections.insert(name, section);
            } else if section == ".rodata" && matches!(symbol.size(), 1 | 4 | 8) {
                plan.switches.push((name, symbol.size() as usize));
            }
        }
        Ok(plan)
    }

    /// `sched_process_exit` of `tp_btf/sched_process_exit`.
    fn hook(&self, program: &str) -> Result<&str> {
        self.sections
            .get(program)
            .and_then(|section| section.split_once('/'))
            .map(|(_, hook)| hook)
            .ok_or_else(|| anyhow!("{program}: its section names no hook"))
    }
}

fn load(bytes: &[u8], plan: &Plan, switches_on: bool, btf: &Btf) -> Result<Vec<(String, Verdict)>> {
    let one = 1_u64.to_le_bytes();
    let mut loader = EbpfLoader::new();
    loader.btf(Some(btf));
    loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
    if switches_on {
        for (name, size) in &plan.switches {
            loader.override_global(name, one.get(..*size).unwrap_or(&one), true);
        }
    }
    let mut ebpf: Ebpf = loader.load(bytes)?;
    let mut verdicts = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let verdict = match verify(name, program, plan, btf) {
            Ok(()) => Verdict::Accepted(instructions(program)),
            Err(error) if is_missing_hook(&error) => Verdict::NoSuchHook,
            Err(error) => Verdict::Refused(format!("{error:#}")),
        };
        verdicts.push((name.to_owned(), verdict));
    }
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(verdicts)
}

fn verify(name: &str, program: &mut Program, plan: &Plan, btf: &Btf) -> Result<()> {
    match program {
        Program::PerfEvent(program) => program.load()?,
        Program::KProbe(program) => program.load()?,
        Program::UProbe(program) => program.load()?,
        Program::TracePoint(program) => program.load()?,
        Program::RawTracePoint(program) => program.load()?,
        Program::BtfTracePoint(program) => program.load(plan.hook(name)?, btf)?,
        Program::FEntry(program) => program.load(plan.hook(name)?, btf)?,
        Program::FExit(program) => program.load(plan.hook(name)?, btf)?,
        Program::Iter(program) => program.load(plan.hook(name)?, btf)?,
        other => {
            return Err(anyhow!(
                "{name}: nobody loads a {:?} yet",
                other.prog_type()
            ));
        }
    }
    Ok(())
}

fn is_missing_hook(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ProgramError>(),
        Some(ProgramError::Btf(aya::BtfError::UnknownBtfTypeName { .. }))
    )
}

fn instructions(program: &Program) -> Option<u32> {
    program.info().ok()?.verified_instruction_count()
}

fn object_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(".bpf.o").to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Verdict, refused_families};

    #[test]
    fn one_accepted_twin_is_enough() {
        let verdicts = [
            ("issue", Verdict::Accepted(None)),
            ("issue_with_queue", Verdict::Refused("arg1".into())),
            ("start", Verdict::NoSuchHook),
            ("done", Verdict::Refused("arg0".into())),
            ("done_with_queue", Verdict::NoSuchHook),
        ]
        .map(|(program, verdict)| (program.to_owned(), verdict));
        assert_eq!(Vec::from_iter(refused_families(&verdicts)), ["done"]);
    }
}
