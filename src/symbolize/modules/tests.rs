use super::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A sighting of a file by a process that is long gone.
fn sighting(path: &Path, device_inode: (u64, u64)) -> Sighting<'_> {
    Sighting {
        pid: u32::MAX - 1,
        ancestors: &[],
        range: (0x1000, 0x2000),
        device_inode,
        generation: None,
        path: path.as_os_str().as_encoded_bytes(),
    }
}

fn identity(path: &Path) -> (u64, u64) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

fn module_of(file: MappedFile) -> ModuleId {
    match file {
        MappedFile::Module(id) => id,
        MappedFile::NotElf => panic!("not an ELF file"),
    }
}

#[test]
fn a_file_is_opened_by_path_when_device_and_inode_agree() {
    let path = Path::new("/proc/self/exe").read_link().unwrap();
    let mut modules = Modules::new();
    let seen = sighting(&path, identity(&path));
    let id = module_of(modules.intern(&seen));
    assert!(modules.get(id).file.is_some());
    assert_eq!(modules.get(id).path, path);
    assert_eq!(
        modules.intern(&seen),
        MappedFile::Module(id),
        "interned once"
    );
    assert_eq!(modules.as_slice().len(), 1);
}

#[test]
fn another_file_under_the_path_is_not_taken() {
    let path = Path::new("/proc/self/exe").read_link().unwrap();
    let (device, inode) = identity(&path);
    let mut modules = Modules::new();
    for device_inode in [(device, inode + 1), (device + 1, inode)] {
        let id = module_of(modules.intern(&sighting(&path, device_inode)));
        assert!(modules.get(id).file.is_none());
    }
}

#[test]
fn a_reused_inode_is_told_by_its_generation() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("elf");
    std::fs::write(&path, b"\x7fELF").unwrap();
    let mut modules = Modules::new();
    let first = module_of(modules.intern(&sighting(&path, identity(&path))));
    let known = modules.by_inode[&identity(&path)][0].generation;
    let Some(generation) = known else {
        println!("skipped: this file system tells no inode generations");
        return;
    };
    let mut younger = sighting(&path, identity(&path));
    younger.generation = Some(generation.wrapping_add(1));
    let second = module_of(modules.intern(&younger));
    assert_ne!(first, second);
    assert!(modules.get(second).file.is_none());
}

#[test]
fn what_is_no_regular_elf_file_is_memory_and_a_fifo_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no code").unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mut modules = Modules::new();
    assert_eq!(
        modules.intern(&sighting(&text, identity(&text))),
        MappedFile::NotElf
    );
    let id = module_of(modules.intern(&sighting(&fifo, identity(&fifo))));
    assert!(modules.get(id).file.is_none());
    let memory = sighting(Path::new("/memfd:jit (deleted)"), (1, 1));
    assert_eq!(modules.intern(&memory), MappedFile::NotElf);
}

#[test]
fn a_planted_symlink_leads_to_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/proc/self/exe", &link).unwrap();
    let mut modules = Modules::new();
    let id = module_of(modules.intern(&sighting(&link, identity(&link))));
    assert!(
        modules.get(id).file.is_none(),
        "magic links are not followed"
    );
}

#[test]
fn without_descriptors_a_module_has_no_file_and_is_counted() {
    let path = Path::new("/proc/self/exe").read_link().unwrap();
    let mut modules = Modules::with_files_held_max(0);
    let id = module_of(modules.intern(&sighting(&path, identity(&path))));
    assert!(modules.get(id).file.is_none());
    assert_eq!(modules.out_of_fds(), 1);
    assert!(!modules.reserve_fd());
}

#[test]
fn our_vdso_is_a_readable_elf_file() {
    let mut modules = Modules::new();
    let high = (0x7fff_0000_0000, 0x7fff_0000_1000);
    let id = modules.vdso(u32::MAX - 1, high);
    let module = modules.get(id);
    assert_eq!(module.path, Path::new("[vdso]"));
    assert!(is_elf(module.file.as_ref().unwrap()));
    assert_eq!(modules.vdso(u32::MAX - 2, high), id, "one image for all");
    let foreign = modules.vdso(u32::MAX - 1, (0xf000_0000, 0xf000_1000));
    assert!(
        modules.get(foreign).file.is_none(),
        "a dead 32-bit process shows no image"
    );
}
