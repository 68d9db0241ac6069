//! The two sides of the unwinder's boundary say the same: a C program prints what the header
//! says, and the Rust side is compared with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::mem::offset_of;
use std::path::PathBuf;
use std::process::Command;

use flame::profile::unwind::abi::{
    CODE_BEFORE, FRAMES_MAX, LINE_WORDS, MAPPINGS_MAX, MappingEntry, Outcome, PAGE_BITS_MAX,
    ProcessEntry, Rule, START_BYTES, TABLES_MAX, TableHeader, cfa, fp, mapping_kind,
};

/// Evaluates C expressions with the header in scope.
fn evaluate(name: &str, expressions: &[&str]) -> HashMap<String, u64> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join(name).with_extension("c"), folder.join(name));
    let mut text = String::from(
        "#include \"unwind_abi.h\"\nint printf(const char *, ...);\nint main(void)\n{\n",
    );
    for expression in expressions {
        text += "\tprintf(\"%llu\\n\", (unsigned long long)(";
        text += expression;
        text += "));\n";
    }
    std::fs::write(&source, text + "\treturn 0;\n}\n").unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/include");
    let status = Command::new("cc")
        .args(["-w", "-I", include, "-o"])
        .args([&program, &source])
        .status()
        .expect("a C compiler");
    assert!(status.success());
    let output = Command::new(&program).output().unwrap();
    let values = String::from_utf8(output.stdout).unwrap();
    let values = values.lines().map(|line| line.parse().unwrap());
    expressions
        .iter()
        .map(ToString::to_string)
        .zip(values)
        .collect()
}

fn check(name: &str, expected: &[(&str, u64)]) {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let values = evaluate(name, &names);
    for (name, value) in expected {
        assert_eq!(values[*name], *value, "{name}");
    }
}

#[test]
fn both_sides_agree() {
    let outcomes: Vec<(&str, u64)> = [
        "ROOTED",
        "TOO_DEEP",
        "UNKNOWN_PROCESS",
        "UNMAPPED",
        "NO_TABLE",
        "UNSUPPORTED_RULE",
        "STACK_UNREADABLE",
        "BAD_CFA",
        "BAD_FRAME_POINTER",
        "COMPAT",
        "NO_USER",
    ]
    .into_iter()
    .zip(Outcome::ALL.map(|outcome| outcome as u64))
    .collect();
    let outcomes: Vec<(String, u64)> = outcomes
        .into_iter()
        .map(|(name, value)| (format!("UNWIND_{name}"), value))
        .collect();
    let mut expected: Vec<(&str, u64)> = outcomes
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    // A header and a rule written as words, read as structs: every field at its place.
    expected.extend([
        ("UNWIND_OUTCOMES", Outcome::ALL.len() as u64 + 1),
        ("UNWIND_FRAMES_MAX", FRAMES_MAX as u64),
        ("UNWIND_TABLES_MAX", TABLES_MAX.into()),
        ("UNWIND_MAPPINGS_MAX", MAPPINGS_MAX.into()),
        ("UNWIND_LINE_WORDS", LINE_WORDS as u64),
        ("UNWIND_PAGE_BITS_MAX", PAGE_BITS_MAX.into()),
        ("UNWIND_CODE_BEFORE", CODE_BEFORE as u64),
        ("UNWIND_START_BYTES", START_BYTES),
        ("UNWIND_CFA_NONE", cfa::NONE.into()),
        ("UNWIND_CFA_SP", cfa::SP.into()),
        ("UNWIND_CFA_FP", cfa::FP.into()),
        ("UNWIND_CFA_REGISTER", cfa::REGISTER.into()),
        ("UNWIND_CFA_PLT", cfa::PLT.into()),
        ("UNWIND_CFA_SP_DEREF", cfa::SP_DEREF.into()),
        ("UNWIND_CFA_FP_DEREF", cfa::FP_DEREF.into()),
        ("UNWIND_CFA_STOP", cfa::STOP.into()),
        ("UNWIND_CFA_SIGNAL", cfa::SIGNAL.into()),
        ("UNWIND_CFA_UNSUPPORTED", cfa::UNSUPPORTED.into()),
        ("UNWIND_FP_SAME", fp::SAME.into()),
        ("UNWIND_FP_AT_CFA", fp::AT_CFA.into()),
        ("UNWIND_FP_AT_FP", fp::AT_FP.into()),
        ("UNWIND_FP_UNDEFINED", fp::UNDEFINED.into()),
        ("UNWIND_MAPPING_TABLE", mapping_kind::TABLE.into()),
        (
            "UNWIND_MAPPING_FRAME_POINTERS",
            mapping_kind::FRAME_POINTERS.into(),
        ),
        (
            "sizeof(struct unwind_mapping)",
            size_of::<MappingEntry>() as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_mapping, end)",
            offset_of!(MappingEntry, end) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_mapping, bias)",
            offset_of!(MappingEntry, bias) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_mapping, table)",
            offset_of!(MappingEntry, table) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_mapping, kind)",
            offset_of!(MappingEntry, kind) as u64,
        ),
        (
            "sizeof(struct unwind_process)",
            size_of::<ProcessEntry>() as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_process, count)",
            offset_of!(ProcessEntry, count) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_process, exec_id)",
            offset_of!(ProcessEntry, exec_id) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_process, exec_id_known)",
            offset_of!(ProcessEntry, exec_id_known) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_process, run)",
            offset_of!(ProcessEntry, run) as u64,
        ),
        (
            "__builtin_offsetof(struct unwind_process, vdso)",
            offset_of!(ProcessEntry, vdso) as u64,
        ),
        ("sizeof(struct unwind_table_header)", LINE_WORDS as u64 * 4),
        ("sizeof(struct unwind_rule)", 16),
    ]);
    check("unwind_constants", &expected);
}

#[test]
fn words_are_the_structs() {
    let header = TableHeader {
        base: 0x1122_3344_5566_7788,
        span: 1,
        page_bits: 2,
        pages_at: 3,
        rows_at: 4,
        rules_at: 5,
        rows: 6,
        rules: 7,
        version: 8,
    };
    let rule = Rule {
        cfa: 1,
        cfa_register: 2,
        fp: 3,
        reserved: 0,
        cfa_offset: 70_000,
        fp_offset: 9,
        deref_add: 5,
        ra_offset: 600,
    };
    let list = |words: &[u32]| format!("{words:?}").replace(['[', ']'], "");
    let header_words = list(&header.to_words());
    let rule_words = list(&rule.to_words());
    let expressions: Vec<(String, u64)> = [
        ("header", "base", header.base),
        ("header", "span", 1),
        ("header", "page_bits", 2),
        ("header", "pages_at", 3),
        ("header", "rows_at", 4),
        ("header", "rules_at", 5),
        ("header", "rows", 6),
        ("header", "rules", 7),
        ("header", "version", 8),
        ("rule", "cfa", 1),
        ("rule", "cfa_register", 2),
        ("rule", "fp", 3),
        ("rule", "cfa_offset", 70_000),
        ("rule", "fp_offset", 9),
        ("rule", "deref_add", 5),
        ("rule", "ra_offset", 600),
    ]
    .into_iter()
    .map(|(what, field, value)| {
        let (kind, words) = if what == "rule" {
            ("unwind_rule", &rule_words)
        } else {
            ("unwind_table_header", &header_words)
        };
        (
            format!("((struct {kind} *)(__u32[16]){{{words}}})->{field}"),
            value,
        )
    })
    .collect();
    let expected: Vec<(&str, u64)> = expressions
        .iter()
        .map(|(text, value)| (text.as_str(), *value))
        .collect();
    check("unwind_words", &expected);
    assert_eq!(TableHeader::from_words(&header.to_words()), header);
}
