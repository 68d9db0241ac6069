//! One row of call frame information as the walk wants it.

use gimli::{
    CfaRule, Expression, Operation, Reader, Register, RegisterRule, UnwindExpression,
    UnwindSection, UnwindTableRow, X86_64,
};

use super::abi::{Rule, cfa, fp};

/// `{rax, rdx, rcx, …}` by DWARF number to the index in `struct pt_regs`
/// (`arch/x86/include/asm/ptrace.h`).
const PT_REGS_INDEX: [u8; 16] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];

/// The rule where nothing is known.
pub const NONE: Rule = plain(cfa::NONE);
/// The outermost frame.
pub const STOP: Rule = plain(cfa::STOP);
/// A signal frame.
pub const SIGNAL: Rule = plain(cfa::SIGNAL);
/// What the walk cannot do.
pub const UNSUPPORTED: Rule = plain(cfa::UNSUPPORTED);

const fn plain(cfa: u8) -> Rule {
    Rule {
        cfa,
        cfa_register: 0,
        fp: fp::SAME,
        reserved: 0,
        cfa_offset: 0,
        fp_offset: 0,
        deref_add: 0,
        ra_offset: 0,
    }
}

/// Converts a row.
pub fn from_row<R: Reader<Offset = usize>, S: UnwindSection<R>>(
    section: &S,
    row: &UnwindTableRow<usize>,
    signal_frame: bool,
) -> Rule {
    if signal_frame {
        return SIGNAL;
    }
    let ra_offset = match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return STOP,
        Some(RegisterRule::Offset(offset)) => offset,
        _ => return UNSUPPORTED,
    };
    let rule = cfa_rule(section, row.cfa())
        .zip(fp_rule(section, row.register(X86_64::RBP).as_ref()))
        .zip(i16::try_from(ra_offset).ok())
        .map(|((mut rule, (fp, fp_offset)), ra_offset)| {
            rule.fp = fp;
            rule.fp_offset = fp_offset;
            rule.ra_offset = ra_offset;
            rule
        });
    rule.unwrap_or(UNSUPPORTED)
}

fn cfa_rule<R: Reader<Offset = usize>, S: UnwindSection<R>>(
    section: &S,
    rule: &CfaRule<usize>,
) -> Option<Rule> {
    match *rule {
        CfaRule::RegisterAndOffset { register, offset } => {
            let mut rule = plain(match register {
                X86_64::RSP => cfa::SP,
                X86_64::RBP => cfa::FP,
                _ => cfa::REGISTER,
            });
            if rule.cfa == cfa::REGISTER {
                rule.cfa_register = *PT_REGS_INDEX.get(usize::from(register.0))?;
            }
            rule.cfa_offset = i32::try_from(offset).ok()?;
            Some(rule)
        }
        CfaRule::Expression(expression) => cfa_expression(&expression.get(section).ok()?),
    }
}

/// Recognises the expressions that occur: the linkers' PLT entry, and a stack pointer saved in
/// memory: in an aligned frame (`rbp`), in OpenSSL's assembly (`rsp`).
fn cfa_expression<R: Reader<Offset = usize>>(expression: &Expression<R>) -> Option<Rule> {
    // DWARF 64-bit or 32-bit does not matter to these operations.
    let encoding = gimli::Encoding {
        format: gimli::Format::Dwarf32,
        version: 4,
        address_size: 8,
    };
    let mut operations = expression.clone().operations(encoding);
    let mut parsed = Vec::with_capacity(9);
    while let Some(operation) = operations.next().ok()? {
        // One more than the longest known form.
        if parsed.len() == 9 {
            return None;
        }
        parsed.push(operation);
    }
    plt_entry(&parsed).or_else(|| saved_stack_pointer(&parsed))
}

/// `DW_OP_breg7 (rsp): 8; breg16 (rip): 0; lit15; and; lit11; ge; lit3; shl; plus`: bfd and LLD.
/// The threshold is where in the 16-byte entry the `push` is done: 11, or 10 with `endbr64`.
fn plt_entry<R: Reader<Offset = usize>>(operations: &[Operation<R>]) -> Option<Rule> {
    let [
        Operation::RegisterOffset {
            register: X86_64::RSP,
            offset: 8,
            ..
        },
        Operation::RegisterOffset {
            register: X86_64::RA,
            offset: 0,
            ..
        },
        Operation::UnsignedConstant { value: 15 },
        Operation::And,
        Operation::UnsignedConstant {
            value: threshold @ 0..16,
        },
        Operation::Ge,
        Operation::UnsignedConstant { value: 3 },
        Operation::Shl,
        Operation::Plus,
    ] = operations
    else {
        return None;
    };
    Some(Rule {
        cfa_register: *threshold as u8,
        ..plain(cfa::PLT)
    })
}

/// `*(register + offset) + add`.
fn saved_stack_pointer<R: Reader<Offset = usize>>(operations: &[Operation<R>]) -> Option<Rule> {
    let add = match operations {
        [
            _,
            Operation::Deref {
                size: 8,
                space: false,
                ..
            },
        ] => 0,
        [
            _,
            Operation::Deref {
                size: 8,
                space: false,
                ..
            },
            Operation::PlusConstant { value },
        ]
        | [
            _,
            Operation::Deref {
                size: 8,
                space: false,
                ..
            },
            Operation::UnsignedConstant { value },
            Operation::Plus,
        ] => i16::try_from(*value).ok()?,
        _ => return None,
    };
    let (register, offset) = register_offset(operations.first()?)?;
    let kind = match register {
        X86_64::RSP => cfa::SP_DEREF,
        X86_64::RBP => cfa::FP_DEREF,
        _ => return None,
    };
    Some(Rule {
        cfa_offset: offset,
        deref_add: add,
        ..plain(kind)
    })
}

fn register_offset<R: Reader<Offset = usize>>(operation: &Operation<R>) -> Option<(Register, i32)> {
    match *operation {
        Operation::RegisterOffset {
            register, offset, ..
        } => Some((register, i32::try_from(offset).ok()?)),
        _ => None,
    }
}

/// How the caller's frame pointer is found: its kind and its offset.
fn fp_rule<R: Reader<Offset = usize>, S: UnwindSection<R>>(
    section: &S,
    rule: Option<&RegisterRule<usize>>,
) -> Option<(u8, i32)> {
    match rule {
        None | Some(RegisterRule::SameValue) => Some((fp::SAME, 0)),
        Some(RegisterRule::Offset(offset)) => Some((fp::AT_CFA, i32::try_from(*offset).ok()?)),
        Some(RegisterRule::Expression(expression)) => {
            Some(fp_expression(section, expression).unwrap_or((fp::UNDEFINED, 0)))
        }
        // The stack can be walked without it for as long as nobody needs it.
        Some(_) => Some((fp::UNDEFINED, 0)),
    }
}

/// `*(rbp + offset)`: what an aligned frame says.
fn fp_expression<R: Reader<Offset = usize>, S: UnwindSection<R>>(
    section: &S,
    expression: &UnwindExpression<usize>,
) -> Option<(u8, i32)> {
    let encoding = gimli::Encoding {
        format: gimli::Format::Dwarf32,
        version: 4,
        address_size: 8,
    };
    let mut operations = expression.get(section).ok()?.operations(encoding);
    let (register, offset) = register_offset(&operations.next().ok()??)?;
    let whole = operations.next().ok()?.is_none();
    (whole && register == X86_64::RBP).then_some((fp::AT_FP, offset))
}
