//! A result reaches its place whole or not at all, and never a place it must not reach.

// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use flame::render::output::{check_writable, write_atomically};

fn write_text(path: &Path, text: &str) -> Result<(), flame::error::Error> {
    write_atomically(path, |out| out.write_all(text.as_bytes()))
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode_of(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_file_has_the_mode_the_umask_leaves_and_an_old_one_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.svg");
    write_text(&path, "one").unwrap();
    let reference = folder.path().join("reference");
    fs::write(&reference, "").unwrap();
    assert_eq!(mode_of(&path), mode_of(&reference));

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    write_text(&path, "two").unwrap();
    assert_eq!(
        (fs::read_to_string(&path).unwrap().as_str(), mode_of(&path)),
        ("two", 0o640)
    );
    assert_eq!(names_in(folder.path()), ["out.svg", "reference"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.svg");
    fs::write(&path, "old").unwrap();
    let error = write_atomically(&path, |out| {
        out.write_all(&vec![b'x'; 1 << 20])?;
        Err(io::Error::other("renderer failed"))
    })
    .unwrap_err();
    assert!(error.to_string().contains("renderer failed"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names_in(folder.path()), ["out.svg"]);
}

#[test]
fn a_reader_sees_the_old_file_until_the_new_one_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.svg");
    fs::write(&path, "old").unwrap();
    write_atomically(&path, |out| {
        out.write_all(b"half")?;
        out.flush()?;
        assert_eq!(fs::read_to_string(&path)?, "old");
        out.write_all(b" and half")
    })
    .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "half and half");
}

#[test]
fn a_full_file_system_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "flame-test"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        let reason = "skipped: mounting a small tmpfs needs root";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        eprintln!("{reason}");
        return;
    }
    let path = folder.path().join("out.svg");
    fs::write(&path, "old").unwrap();
    let result = write_atomically(&path, |out| out.write_all(&vec![b'x'; 1 << 20]));
    let after = (fs::read_to_string(&path).unwrap(), names_in(folder.path()));
    std::process::Command::new("umount")
        .arg(folder.path())
        .status()
        .unwrap();
    let error = result.unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(error.exit_status(), 1);
    assert_eq!(after, ("old".to_owned(), vec!["out.svg".to_owned()]));
}

#[test]
fn a_full_device_is_an_error() {
    let error = write_text(Path::new("/dev/full"), "text").unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
}

#[test]
fn devices_are_written_to_and_stay_devices() {
    write_text(Path::new("/dev/null"), "text").unwrap();
    check_writable(Path::new("/dev/null")).unwrap();
    assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
}

#[test]
fn standard_output_can_be_named_as_a_file() {
    let before = fs::read_link("/dev/stdout").unwrap();
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        check_writable(Path::new(name)).unwrap();
        write_text(Path::new(name), "").unwrap();
    }
    assert_eq!(fs::read_link("/dev/stdout").unwrap(), before);
}

#[test]
fn a_pipe_is_written_to_and_may_end_early() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    check_writable(&path).unwrap();
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut start = [0; 4];
            fs::File::open(path)
                .unwrap()
                .read_exact(&mut start)
                .unwrap();
            start
        }
    });
    write_atomically(&path, |out| out.write_all(&vec![b'x'; 1 << 22])).unwrap();
    assert_eq!(&reader.join().unwrap(), b"xxxx");
    assert_eq!(names_in(folder.path()), ["pipe"]);
}

#[test]
fn links_are_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (victim, dangling) = (folder.path().join("victim"), folder.path().join("nowhere"));
    fs::write(&victim, "precious").unwrap();
    for target in [&victim, &dangling] {
        let path = folder.path().join("out.svg");
        symlink(target, &path).unwrap();
        check_writable(&path).unwrap();
        write_text(&path, "text").unwrap();
        assert!(path.symlink_metadata().unwrap().is_file());
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!dangling.exists());
}

#[test]
fn traps_of_other_users_in_shared_folders_are_refused() {
    if !rustix::process::geteuid().is_root() {
        let reason = "skipped: making a file of another user needs root";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        eprintln!("{reason}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let pipe = folder.path().join("pipe.svg");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    std::os::unix::fs::lchown(&pipe, Some(65534), Some(65534)).unwrap();
    let link = folder.path().join("link.svg");
    symlink("/dev/null", &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
    for path in [&pipe, &link] {
        let error = check_writable(path).unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
        assert!(write_text(path, "secret").is_err());
    }
}

#[test]
fn what_cannot_be_written_is_known_before_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, words) in [
        (folder.path().to_owned(), "a directory"),
        (folder.path().join("missing/out.svg"), "create the folder"),
        (file.join("out.svg"), "name a file in a folder"),
        (folder.path().join("x".repeat(300)), "choose a shorter"),
        ("/".into(), "not a file name"),
        ("/proc/flame.svg".into(), "cannot write"),
        ("/sys/flame.svg".into(), "cannot write"),
    ] {
        let error = check_writable(&path).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("remedy: ") && error.exit_status() == 1,
            "{text}"
        );
        assert!(text.contains(words), "{}: {text}", path.display());
    }
    assert_eq!(names_in(folder.path()), ["file"]);
}
