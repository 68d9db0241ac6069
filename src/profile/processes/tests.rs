//! Against the running kernel: real processes, real records.

use super::*;
use crate::profile::cpus::online_cpus;
use crate::profile::sideband::SideBand;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Everything that watches processes, or `None` (with the reason on stdout) without privileges.
/// In continuous integration, that is a failure.
fn watch() -> Option<(SideBand, Processes, Modules)> {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI must run this test as root"
        );
        println!("skipped: only root may watch all processes");
        return None;
    }
    let sideband = SideBand::open(&online_cpus().unwrap()).unwrap();
    Some((sideband, Processes::new(), Modules::new()))
}

fn drain(sideband: &mut SideBand, processes: &mut Processes, modules: &mut Modules) -> Vec<Mmap> {
    let mut records = Vec::new();
    sideband.drain(&mut records);
    processes.apply_all(&records, modules).unwrap();
    let mmap = |record| {
        if let Record::Mmap(mmap) = record {
            Some(mmap)
        } else {
            None
        }
    };
    records.into_iter().filter_map(mmap).collect()
}

fn key(tgid: u32) -> ImageKey {
    ImageKey {
        tgid,
        start_time_low: 0,
        exec_id: 0,
    }
}

/// The module that the first byte of a recorded mapping resolves to, just after its record.
fn module_of(processes: &Processes, mmap: &Mmap) -> Option<ModuleId> {
    let time_ns = mmap.time_ns + 1;
    match processes.resolve(key(mmap.pid), mmap.addr, time_ns, time_ns) {
        Location::File {
            module,
            file_offset,
        } => {
            if !mmap.path.starts_with(b"[") {
                assert_eq!(file_offset, mmap.file_offset);
            }
            Some(module)
        }
        _ => None,
    }
}

fn contents(modules: &Modules, id: ModuleId) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = modules.get(id).file.as_ref().unwrap().try_clone().unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits until a child has the program at `path` mapped, and the vDSO, which comes after it.
fn wait_for_exec(child: &Child, path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut program, mut vdso) = (false, false);
    while !(program && vdso) {
        assert!(
            Instant::now() < deadline,
            "the child never ran {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
        (program, vdso) = (false, false);
        proc_fs::for_each_executable(child.id(), |mapping| {
            program |= mapping.path == path.as_os_str().as_encoded_bytes();
            vdso |= program && mapping.path == b"[vdso]";
        })
        .unwrap();
    }
}

/// Kills and reaps the child whatever the test does.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn every_short_lived_exec_is_seen_and_its_files_held() {
    let Some((mut sideband, mut processes, mut modules)) = watch() else {
        return;
    };
    let mut children = Vec::new();
    for _ in 0..100 {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        children.push(child.id());
        child.wait().unwrap();
    }
    // All of them are dead by now.
    let mmaps = drain(&mut sideband, &mut processes, &mut modules);
    let true_inode = std::fs::metadata("/bin/true").unwrap().ino();
    for pid in children {
        let of_child: Vec<&Mmap> = mmaps.iter().filter(|mmap| mmap.pid == pid).collect();
        let program = of_child
            .iter()
            .find(|mmap| mmap.ino == true_inode)
            .expect("the exec is seen");
        let libc = of_child
            .iter()
            .find(|mmap| mmap.path.windows(7).any(|name| name == b"libc.so"));
        for mmap in [program, libc.expect("libc is mapped")] {
            let id = module_of(&processes, mmap).expect("a mapping of a file");
            assert_eq!(modules.get(id).device_inode.1, mmap.ino);
            assert!(contents(&modules, id).starts_with(b"\x7fELF"));
        }
        let vdso = of_child
            .iter()
            .find(|mmap| *mmap.path == *b"[vdso]")
            .expect("a vDSO");
        let id = module_of(&processes, vdso).expect("a mapping of the vDSO");
        assert!(contents(&modules, id).starts_with(b"\x7fELF"));
    }
    assert_eq!(sideband.lost(), 0);
}

#[test]
fn a_binary_deleted_while_it_runs_stays_readable() {
    let Some((mut sideband, mut processes, mut modules)) = watch() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deleted");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let child = Reaped(Command::new(&path).arg("60").spawn().unwrap());
    wait_for_exec(&child.0, &path);
    std::fs::remove_file(&path).unwrap();
    let mmaps = drain(&mut sideband, &mut processes, &mut modules);
    let name = path.as_os_str().as_encoded_bytes();
    let mmap = mmaps
        .iter()
        .find(|mmap| *mmap.path == *name)
        .expect("the exec is seen");
    let id = module_of(&processes, mmap).expect("a mapping of a file");
    assert_eq!(contents(&modules, id), std::fs::read("/bin/sleep").unwrap());

    // The same through /proc, which marks the path.
    let (mut processes, mut modules) = (Processes::new(), Modules::new());
    processes
        .snapshot(Some(&[child.0.id()]), &mut modules)
        .unwrap();
    let id = module_of(&processes, mmap).expect("a mapping of a file");
    assert_eq!(modules.get(id).path, path);
    assert_eq!(contents(&modules, id), std::fs::read("/bin/sleep").unwrap());
}

#[test]
fn a_program_replaced_under_its_path_is_not_taken_for_the_other() {
    let Some((mut sideband, mut processes, mut modules)) = watch() else {
        return;
    };
    // On the disk's own file system, which gives the inode number to the next file.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("conftest");
    for program in ["/bin/true", "/bin/false"] {
        std::fs::copy(program, &path).unwrap();
        Command::new(&path).status().unwrap();
        if program == "/bin/true" {
            std::fs::remove_file(&path).unwrap();
        }
    }
    let mmaps = drain(&mut sideband, &mut processes, &mut modules);
    let name = path.as_os_str().as_encoded_bytes();
    let runs: Vec<&Mmap> = mmaps.iter().filter(|mmap| *mmap.path == *name).collect();
    assert_eq!(runs.len(), 2);
    let modules_run: Vec<_> = runs
        .iter()
        .filter_map(|mmap| module_of(&processes, mmap))
        .collect();
    assert_eq!(modules_run.len(), 2);
    assert!(
        modules.get(modules_run[0]).file.is_none(),
        "the first program is gone for good"
    );
    assert_eq!(
        contents(&modules, modules_run[1]),
        std::fs::read("/bin/false").unwrap()
    );
}

#[test]
fn a_program_in_a_private_mount_namespace_is_found() {
    let Some((mut sideband, mut processes, mut modules)) = watch() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hidden");
    let script =
        "mount -t tmpfs none \"$0\" && cp /bin/sleep \"$0/hidden\" && exec \"$0/hidden\" 60";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script])
        .arg(folder.path())
        .stdin(Stdio::null());
    let child = Reaped(command.spawn().unwrap());
    wait_for_exec(&child.0, &path);
    assert!(!path.exists(), "our own namespace does not see it");
    let mmaps = drain(&mut sideband, &mut processes, &mut modules);
    let name = path.as_os_str().as_encoded_bytes();
    let mmap = mmaps
        .iter()
        .find(|mmap| *mmap.path == *name)
        .expect("the exec is seen");
    let id = module_of(&processes, mmap).expect("a mapping of a file");
    assert_eq!(contents(&modules, id), std::fs::read("/bin/sleep").unwrap());
    assert!(
        modules.get(id).root.is_some(),
        "its debug files are looked for below its root"
    );
}

#[test]
fn anonymous_code_belongs_to_its_process() {
    let mut memory = memmap2::MmapMut::map_anon(4096).unwrap();
    memory.fill(0xc3);
    let code = memory.make_exec().unwrap();
    let (mut processes, mut modules) = (Processes::new(), Modules::new());
    let pid = std::process::id();
    processes.snapshot(Some(&[pid]), &mut modules).unwrap();
    let now = clock_ns(ClockId::Monotonic);
    match processes.resolve(key(pid), code.as_ptr() as u64, now, now) {
        Location::Anonymous { owner } => {
            assert_eq!(owner.tgid, pid);
            assert_eq!(owner.uid, rustix::process::geteuid().as_raw());
            assert!(owner.root.is_some());
        }
        other => panic!("{other:?}"),
    }
    let here = anonymous_code_belongs_to_its_process as fn() as usize as u64;
    match processes.resolve(key(pid), here, now, now) {
        Location::File { module, .. } => {
            let own = Path::new("/proc/self/exe").read_link().unwrap();
            assert_eq!(modules.get(module).path, own);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        processes.resolve(key(pid), 0, now, now),
        Location::Unmapped
    ));
    assert_eq!(processes.live_pids().collect::<Vec<_>>(), [pid]);
}

#[test]
fn a_loss_is_mended_from_proc() {
    let (mut processes, mut modules) = (Processes::new(), Modules::new());
    let loss = [Record::Lost {
        time_ns: 1,
        count: 7,
    }];
    processes.apply_all(&loss, &mut modules).unwrap();
    assert!(processes.live_pids().any(|pid| pid == std::process::id()));
}
