//! A file's DWARF may nest inlined functions as deep as it likes: a file of another user must not
//! end us, and loses no more than what only its DWARF tells.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, symbolize};
use object::{Object, ObjectSegment, ObjectSymbol};

/// `main`, whose DWARF calls it `named_by_dwarf` and has so many inlined functions in it, each
/// inside of the one before; a byte each opens and closes one.
fn source(nested: u32) -> String {
    format!(
        r#"
        .section .debug_line, "", @progbits
lines:
        .text
        .file 1 "main.c"
        .globl main
        .type main, @function
main:   .loc 1 1
        ret
        .size main, 1
        .section .debug_abbrev, "", @progbits
        .byte 1, 0x11, 1, 0x11, 1, 0x12, 7, 0x10, 0x17, 0, 0 # compile_unit: low_pc, high_pc, stmt_list
        .byte 2, 0x2e, 1, 3, 8, 0x11, 1, 0x12, 7, 0, 0       # subprogram: name, low_pc, high_pc
        .byte 3, 0x1d, 1, 0, 0                               # inlined_subroutine
        .byte 0
        .section .debug_info, "", @progbits
        .long end - start
start:  .short 4
        .long 0
        .byte 8
        .byte 1
        .quad main, 1
        .long lines
        .byte 2
        .asciz "named_by_dwarf"
        .quad main, 1
        .fill {nested}, 1, 3
        .fill {nested} + 2, 1, 0
end:
        .section .note.GNU-stack, "", @progbits
"#
    )
}

/// The name of `main` in a program that anybody may write to: nobody's, therefore.
fn name_of_main(folder: &Path, nested: u32) -> String {
    let (assembly, program) = (folder.join("main.s"), folder.join("main"));
    std::fs::write(&assembly, source(nested)).unwrap();
    let compiled = Command::new("cc")
        .arg(&assembly)
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap();
    assert!(compiled.success());
    std::fs::set_permissions(&program, Permissions::from_mode(0o666)).unwrap();

    let data = std::fs::read(&program).unwrap();
    let elf = object::File::parse(data.as_slice()).unwrap();
    let main = elf
        .symbols()
        .find(|symbol| symbol.name() == Ok("main"))
        .unwrap()
        .address();
    let segment = elf
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&main))
        .unwrap();
    let offset = main - segment.address() + segment.file_range().0;
    let module = Module {
        path: program.clone(),
        device_inode: (0, 0),
        file: Some(File::open(&program).unwrap()),
        root: None,
    };
    let id = ModuleId(0);
    let queries = Queries {
        files: HashMap::from([(id, vec![offset])]),
        ..Queries::default()
    };
    let options = Options {
        inline: true,
        debug_dirs: Vec::new(),
        ..Options::default()
    };
    let symbols = symbolize(&queries, |_| &module, &options);
    symbols.files[&(id, offset)][0].name.to_string()
}

#[test]
fn inlined_functions_that_nest_beyond_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (nested, name) in [
        (1, "named_by_dwarf"),
        (512, "named_by_dwarf"),
        (513, "main"),
        (1_000_000, "main"),
    ] {
        assert_eq!(name_of_main(folder.path(), nested), name, "{nested} nested");
    }
}
